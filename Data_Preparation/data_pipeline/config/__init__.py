"""Settings of the package: each is declared once, with its default, range, unit and meaning.

Settings are merged in this order, the later winning: defaults < file or preset <
environment (`ELM_EMBEDDING__BATCH_SIZE=4`) < command line (`--embedding.batch_size 4`).
Secrets (a hub token) are read from the environment by the libraries that need them and
never enter the config, which is saved beside every run.
"""

from data_pipeline.config.base import ColumnName, FolderName, Section, explain
from data_pipeline.config.corpus import CorpusConfig
from data_pipeline.config.embedding import EmbeddingConfig
from data_pipeline.config.files import CONFIGS_FOLDER, preset_names, preset_path, presets_folder, read_config_file
from data_pipeline.config.filters import FiltersConfig
from data_pipeline.config.pipeline import Config, project_root
from data_pipeline.config.preprocess import PreprocessConfig, SplitConfig, StorageConfig

__all__ = [
    "CONFIGS_FOLDER",
    "ColumnName",
    "Config",
    "CorpusConfig",
    "EmbeddingConfig",
    "FiltersConfig",
    "FolderName",
    "PreprocessConfig",
    "Section",
    "SplitConfig",
    "StorageConfig",
    "explain",
    "preset_names",
    "preset_path",
    "presets_folder",
    "project_root",
    "read_config_file",
]
