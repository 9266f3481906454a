"""Exceptions that this package raises on purpose.

DataPipelineError
├── ConfigError               a setting has a value that cannot work (also a ValueError)
├── SourceError               a file, folder or name does not exist, or has unusable content
│   └── RecordError           one record of a file cannot be used; the others may be
├── ModelError                an embedder cannot be loaded, or gives wrong vectors
│   ├── WrongEmbedderError    a head was trained on vectors of another embedder
│   ├── ApiError              a server that computes vectors cannot be used, or fails too often
│   │   └── BudgetSpentError  the calls or the cost that a run may have are spent
│   ├── OutOfMemoryError      a batch does not fit into the memory of the device
│   │   └── RequestRefusedError  a server refuses a request for its content or size
│   └── DeviceHungError       a GPU does not answer
├── JudgeError                the judge of weak labels cannot be used, or fails too often
├── SelectionError            no subset can be chosen with this budget or these features
├── MissingExtraError         an optional dependency is not installed (also an ImportError)
├── FilesFailedError          some files of a job failed; all others were processed
└── StoreError                files on disk cannot be used
    ├── NotFoundError         a data folder, split, selection or run does not exist
    ├── ShardMismatchError    two stores do not describe the same rows
    ├── StaleStageError       finished work was made with other settings
    └── CorruptShardError     a file is truncated, altered or unreadable

A message names the value found, the value expected, where, and what to do.
"""


class DataPipelineError(Exception):
    """Base of all errors that this package raises on purpose."""


class ConfigError(DataPipelineError, ValueError):
    """A setting, or a combination of settings, cannot work."""


class SourceError(DataPipelineError):
    """A corpus, table, model or head does not exist, or its content cannot be used."""


class RecordError(SourceError):
    """One record of a file cannot be used; the others may be.

    Args:
        message: what is wrong, where, and what to do.
        reason: word for the drop ledger, such as `wrong_type`.
    """

    def __init__(self, message: str, reason: str = "unusable_record") -> None:
        super().__init__(message)
        self.reason = reason


class ModelError(DataPipelineError):
    """An embedder cannot be loaded, or gives wrong vectors."""


class WrongEmbedderError(ModelError):
    """A head was trained on vectors of another embedder than the one that made these vectors."""


class OutOfMemoryError(ModelError):
    """A batch does not fit into the memory of the device; a smaller batch may."""


class RequestRefusedError(OutOfMemoryError):
    """A server refuses a request for its content or size; one with fewer texts may be accepted."""


class ApiError(ModelError):
    """A server that computes vectors cannot be used, or fails too often to continue."""


class BudgetSpentError(ApiError):
    """The calls or the cost that a run may have are spent, or would be."""


class DeviceHungError(ModelError):
    """A GPU does not answer, and the threads that wait for it do not return."""


class JudgeError(DataPipelineError):
    """The judge of weak labels cannot be used, or fails too often to continue."""


class SelectionError(DataPipelineError):
    """No subset can be chosen: the budget cannot be met, or a feature is missing or invalid."""


class MissingExtraError(DataPipelineError, ImportError):
    """An optional dependency is needed and not installed."""


class FilesFailedError(DataPipelineError):
    """Some files of a job failed; all others were processed."""


class StoreError(DataPipelineError):
    """Files on disk cannot be used."""


class NotFoundError(StoreError):
    """A data folder, split, selection or run does not exist."""


class ShardMismatchError(StoreError):
    """Two stores that must describe the same rows do not."""


class StaleStageError(StoreError):
    """Finished work on disk was made with other settings than the present ones."""


class CorruptShardError(StoreError):
    """A file is truncated, altered or unreadable."""


# Names of earlier versions, which code of users imports and catches.
WrongEmbedder = WrongEmbedderError
OutOfMemory = OutOfMemoryError
DeviceHung = DeviceHungError
MissingExtra = MissingExtraError
FilesFailed = FilesFailedError
NotFound = NotFoundError
ShardMismatch = ShardMismatchError
StaleStage = StaleStageError
CorruptShard = CorruptShardError
