"""Settings of a run of weak labels, in a section for each stage."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from data_pipeline.config import FolderName, Section
from data_pipeline.types import Split
from data_pipeline.weak_labels.candidate_config import CandidateConfig, PassagesConfig
from data_pipeline.weak_labels.hub_records import HubConfig
from data_pipeline.weak_labels.judge.settings import JudgeConfig
from data_pipeline.weak_labels.negatives import NegativesConfig, PositivesConfig
from data_pipeline.weak_labels.prefilter import PrefilterConfig
from data_pipeline.weak_labels.push import PushConfig
from data_pipeline.weak_labels.rerank import RerankConfig
from data_pipeline.weak_labels.sampling import SamplingConfig


class SourceConfig(PassagesConfig):
    """Source of the passages."""

    source: Literal["store", "file", "documents", "hub"] = "store"
    """store: paragraphs of a data folder of ours, with their vectors; file: JSON Lines or parquet, a passage a record;
    documents: the same, or a data set of the hub, cut into windows of tokens; hub: a data set of the hub, a passage a
    record."""
    hub: HubConfig = HubConfig()
    """hub, documents: the dataset."""
    path: Path | None = None
    """file, documents: the file, or a folder of them."""
    data_dir: Path = Path("data")
    """store: the data folder."""
    corpus: str | None = None
    """store: name of the corpus; none: the only one, or the embedded one."""
    split: Split = "train"
    """store: split of the corpus."""

    @model_validator(mode="after")
    def _path_is_given(self) -> Self:
        wanted = {"file": {"path"}, "hub": {"hub.name"}, "documents": {"path", "hub.name"}}.get(self.source, set())
        given = {name for name, value in (("path", self.path), ("hub.name", self.hub.name)) if value}
        if len(given) != bool(wanted) or not given <= wanted:
            raise ValueError(
                f"the source {self.source} needs {' or '.join(sorted(wanted)) or 'neither path nor hub.name'}, "
                f"found {' and '.join(sorted(given)) or 'neither'}"
            )
        return self


class QueriesConfig(Section):
    """The queries."""

    source: Literal["file", "hub", "sample"] = "file"
    """file: JSON Lines; hub: a dataset of the hub; sample: the queries of the bundled sample."""
    hub: HubConfig = HubConfig()
    """hub: the dataset."""
    path: Path | None = None
    """The file."""
    id_field: str = "query_id"
    """The field with the id; texts and whole numbers serve."""
    text_field: str = "query"
    """The field with the text."""
    max_queries: int | None = Field(None, ge=1)
    """Number of queries that are used, from the first; none: all."""

    @model_validator(mode="after")
    def _path_is_given(self) -> Self:
        if (self.source == "file") != (self.path is not None):
            raise ValueError(f"path is for the source file, and needed there; source is {self.source}")
        if (self.source == "hub") != bool(self.hub.name):
            raise ValueError(f"hub.name is for the source hub, and needed there; source is {self.source}")
        return self


class FoldersConfig(Section):
    """Folders for parts of a run; each is inside work_dir unless it is set."""

    records: Path | None = None
    """Folder of records that were fetched from the hub."""
    passages: Path | None = None
    """Folder of memory-mapped copies of passages."""
    indexes: Path | None = None
    """Folder of the BM25 index and of the vectors of passages."""
    state: Path | None = None
    """Folder of the state of all runs."""


class LoggingConfig(Section):
    """Settings of the log."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Minimum log level."""
    file: Path | None = None
    """Log file with timestamps."""


class OutputConfig(Section):
    """Settings of the output files."""

    zeros: bool = True
    """Whether qrels.tsv has passages that were judged not relevant."""
    training_negatives: int = Field(3, ge=0)
    """Negatives in a row of training.parquet; queries with fewer are left out of that file."""
    beir: bool = False
    """Whether a folder in BEIR's layout is written too, with all passages and queries."""
    qrels_path: Path | None = None
    """File that qrels.tsv is copied to."""
    triples_path: Path | None = None
    """File that triples.jsonl is copied to."""


class LabelConfig(Section):
    """A whole `weak_labels.yaml`."""

    run: FolderName = "weak_labels"
    """Name of the run and of its folder of outputs."""
    work_dir: Path = Path("data/weak_labels")
    """Folder of indexes, of the state of all runs, and of their outputs."""
    folders: FoldersConfig = FoldersConfig()
    """Folders for parts of a run outside work_dir."""
    passages: SourceConfig = SourceConfig()
    """Source of the passages."""
    queries: QueriesConfig
    """The queries."""
    gold: Path | Literal["sample"] | None = None
    """Judgements of people, in the form of TREC, MS MARCO, BEIR or MTEB: to calibrate the judge `similarity`, and to
    measure agreement with."""
    gold_relevant: int | None = Field(None, ge=1)
    """The lowest grade of gold that counts as relevant; none: 1 if the highest grade is 1 or 2, and 2 if it is 3 or
    more (TREC Deep Learning, 0 to 3)."""
    runs: tuple[Path, ...] = ()
    """TREC runs of retrieval systems, ranked in the report under the labels and under gold, beside the run's own."""
    candidates: CandidateConfig = CandidateConfig()
    """Search for candidates."""
    rerank: RerankConfig = RerankConfig()
    """Reranking of the best candidates by a cross-encoder."""
    sampling: SamplingConfig = SamplingConfig()
    """Sampling of the candidates that are judged."""
    prefilter: PrefilterConfig = PrefilterConfig()
    """Rules for sampled candidates that are not judged; none by default."""
    judge: JudgeConfig = JudgeConfig()
    """The judge."""
    positives: PositivesConfig = PositivesConfig()
    """Which of those judged relevant become positives."""
    negatives: NegativesConfig = NegativesConfig()
    """Which judged passages become hard negatives."""
    output: OutputConfig = OutputConfig()
    """The output files."""
    push: PushConfig = PushConfig()
    """Upload of the outputs to the hub; off by default."""
    logging: LoggingConfig = LoggingConfig()
    """Settings of the log."""

    @property
    def records_dir(self) -> Path:
        """Folder of records that were fetched from the hub."""
        return self.folders.records or self.work_dir / "hub"

    @property
    def passages_dir(self) -> Path:
        """Folder of memory-mapped copies of passages."""
        return self.folders.passages or self.work_dir

    @property
    def indexes_dir(self) -> Path:
        """Folder of the BM25 index and of the vectors."""
        return self.folders.indexes or self.work_dir

    @property
    def state_path(self) -> Path:
        """File with the state of all runs."""
        return (self.folders.state or self.work_dir) / "state.sqlite"

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.judge.judge == "similarity" and self.gold is None:
            raise ValueError("judge.judge similarity needs gold: its thresholds are calibrated on it")
        if self.gold_relevant is not None and self.gold is None:
            raise ValueError("gold_relevant needs gold: it says which grades of gold are relevant")
        if self.runs and self.gold is None:
            raise ValueError("runs needs gold: systems are ranked under it and under the labels")
        if len({path.name for path in self.runs}) != len(self.runs):
            raise ValueError("runs: two files have the same name, which names the system; rename one")
        there = {"bm25": ["bm25", "fused"], "dense": ["dense", "fused"]}.get(
            self.candidates.fusion, ["bm25", "dense", "fused"]
        )
        there = [*there, "rerank"] if self.rerank.model else there
        if self.negatives.margin_score not in there:
            raise ValueError(f"negatives.margin_score {self.negatives.margin_score!r}: this run has {', '.join(there)}")
        return self
