"""Map-style datasets of paragraphs and their embeddings, and the data loader over them."""

from data_pipeline.dataset.collate import ELMCollator
from data_pipeline.dataset.dataset import ELMDataset
from data_pipeline.dataset.interpolation import interpolate, mixup
from data_pipeline.dataset.loader import ELMLoader
from data_pipeline.dataset.order import Order
from data_pipeline.dataset.pairs import PairDataset

__all__ = ["ELMCollator", "ELMDataset", "ELMLoader", "Order", "PairDataset", "interpolate", "mixup"]
