"""Everything this package raises on purpose.

DataPipelineError
├── ConfigError          a knob has a value that cannot work (also a ValueError)
├── SourceError          a file, folder or name that was given is not there, or is not what it should be
├── ModelError           an embedder cannot be loaded, or gives wrong vectors
│   ├── WrongEmbedder    a head does not belong to these vectors
│   ├── OutOfMemory      a pack does not fit into the device's memory
│   └── DeviceHung       a GPU does not answer any more
├── JudgeError           the judge of weak labels cannot be used, or cannot be trusted any more
├── SelectionError       no subset can be chosen: a budget or a feature is not what it should be
├── MissingExtra         an optional dependency is not installed (also an ImportError)
├── FilesFailed          some files of a job could not be done; all others were
└── StoreError           the files on disk cannot be used
    ├── NotFound         what was named is not there
    ├── ShardMismatch    two stores do not describe the same rows
    ├── StaleStage       finished work was made with other settings
    └── CorruptShard     a file is truncated, altered or unreadable

A message says what was found, what was expected, where, and what to do.
"""


class DataPipelineError(Exception):
    """Base of all errors that this package raises on purpose."""


class ConfigError(DataPipelineError, ValueError):
    """A setting, or a combination of settings, cannot work."""


class SourceError(DataPipelineError):
    """A corpus, table, model or head that was named is not there, or is not what it should be."""


class ModelError(DataPipelineError):
    """An embedder cannot be loaded, or does not behave as it must."""


class WrongEmbedder(ModelError):
    """A head was trained on vectors of another embedder than those it is to score."""


class OutOfMemory(ModelError):
    """A pack does not fit into the device's memory; a smaller one may."""


class DeviceHung(ModelError):
    """A GPU does not answer any more; neither do the threads that wait for it."""


class JudgeError(DataPipelineError):
    """The judge of weak labels cannot be used, or fails so often that going on makes no sense."""


class SelectionError(DataPipelineError):
    """No subset can be chosen: the budget cannot be met, or a feature is missing or broken."""


class MissingExtra(DataPipelineError, ImportError):
    """An optional dependency is needed and not installed."""


class FilesFailed(DataPipelineError):
    """Some files of a job could not be done; all others were."""


class StoreError(DataPipelineError):
    """The files on disk cannot be used."""


class NotFound(StoreError):
    """A data folder, split, selection or run that was named does not exist."""


class ShardMismatch(StoreError):
    """Two stores that must describe the same rows do not."""


class StaleStage(StoreError):
    """Finished work on disk was made with other settings than those asked for."""


class CorruptShard(StoreError):
    """A file is truncated, altered or unreadable."""
