"""Settings of a run of weak labels, in a section for each step."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from data_pipeline.config.base import FolderName, Section
from data_pipeline.config.judge import JudgeConfig
from data_pipeline.config.retrieval import CandidateConfig, HubConfig, PassagesConfig, RerankConfig
from data_pipeline.types import Split


class Stratum(Section):
    """A range of ranks, and how many of it are taken."""

    first: int = Field(ge=1)
    """The best rank of the range; ranks count from 1."""
    last: int = Field(ge=1)
    """The worst rank of the range, inclusive."""
    take: int = Field(ge=0)
    """Number of passages that are taken, at random if the range has more."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.last < self.first:
            raise ValueError(f"last ({self.last}) is before first ({self.first})")
        return self


_DEFAULT_STRATA = (
    Stratum(first=1, last=15, take=15),
    Stratum(first=16, last=40, take=6),
    Stratum(first=41, last=100, take=4),
)


class SamplingConfig(Section):
    """Sampling of the candidates that are judged."""

    strata: tuple[Stratum, ...] = _DEFAULT_STRATA
    """Strata of ranks; by default about 25 passages of a query, the best 15 and some from further down."""
    per_document: int = Field(2, ge=1)
    """Maximum number of passages of one source document."""
    seed: int = 0
    """Seed of the choice within strata that are not taken whole."""

    @model_validator(mode="after")
    def _apart(self) -> Self:
        for before, after in zip(self.strata, self.strata[1:], strict=False):
            if after.first <= before.last:
                raise ValueError(f"the strata {before.first}-{before.last} and {after.first}-{after.last} overlap")
        return self


class PrefilterConfig(Section):
    """Rules for candidates that are not judged; none by default."""

    min_words: int = Field(0, ge=0)
    """Passages with fewer words are not judged; counted as BM25 does, without stop words."""
    shared_word: bool = False
    """Whether passages that share no stemmed word with the query, stop words aside, are not judged."""


class PositivesConfig(Section):
    """Which passages that were judged relevant become positives of training data; qrels have all of them."""

    per_query: int | None = Field(None, ge=1)
    """At most, the best grades first; none: all."""
    min_p: float = Field(0.0, ge=0, le=1)
    """A judge that was less sure of its yes than this makes no positive, where it tells probabilities."""


class NegativesConfig(Section):
    """Which judged passages become hard negatives."""

    per_query: int = Field(10, ge=0)
    """At most."""
    margin: float = Field(0.95, gt=0, le=1)
    """A negative's score is at most this share of the weakest positive's (NV-Retriever, Moreira et al., 2024)."""
    margin_score: str = "dense"
    """The score that is compared: dense, bm25, fused or rerank. Where a passage lacks it, it is no negative."""
    top: int = Field(20, ge=1)
    """Ranks of a list that count as its top."""
    max_p: float = Field(0.5, gt=0, le=1)
    """A judge that was less sure of its no than this leaves the passage out, where it tells probabilities."""
    near_duplicate: float = Field(0.8, gt=0, le=1)
    """Jaccard similarity of character 5-grams from which a passage counts as a copy of a positive."""


class PushConfig(Section):
    """Where outputs are sent; nowhere, unless asked for. The token is that of HF_TOKEN or of `hf auth login`."""

    repo_id: str | None = Field(None, pattern=r"^[\w.-]+/[\w.-]+$")
    """`owner/name` of a dataset; it is made if there is none."""
    private: bool = True
    """Whether a dataset that is made is private."""
    token_env: str | None = Field(None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Environment variable with the token; none: HF_TOKEN, or the login. The token itself is kept nowhere."""


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
