"""Settings of a weak label run, with a section for each step."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from data_pipeline.config.base import DataLocation, FolderName, Section
from data_pipeline.config.execution import ExecutionConfig
from data_pipeline.config.judge import JudgeConfig
from data_pipeline.config.retrieval import CandidateConfig, HubConfig, PassagesConfig, RerankConfig
from data_pipeline.types import Split


class Stratum(Section):
    """Range of ranks that candidates are sampled from."""

    first: int = Field(ge=1)
    """Best rank of the range; ranks start at 1."""
    last: int = Field(ge=1)
    """Worst rank of the range, inclusive."""
    take: int = Field(ge=0)
    """Number of passages to sample, at random if the range has more."""

    @model_validator(mode="after")
    def _ranks_in_order(self) -> Self:
        if self.last < self.first:
            raise ValueError(f"last ({self.last}) is before first ({self.first})")
        return self


_DEFAULT_STRATA = (
    Stratum(first=1, last=15, take=15),
    Stratum(first=16, last=40, take=6),
    Stratum(first=41, last=100, take=4),
)


class SamplingConfig(Section):
    """Sampling of the candidates to judge."""

    strata: tuple[Stratum, ...] = _DEFAULT_STRATA
    """Strata of ranks; by default about 25 passages per query, the best 15 and a sample of lower ranks."""
    per_document: int = Field(2, ge=1)
    """Maximum number of passages per source document."""
    seed: int = 0
    """Seed of the sampling within strata."""

    @model_validator(mode="after")
    def _strata_do_not_overlap(self) -> Self:
        for before, after in zip(self.strata, self.strata[1:], strict=False):
            if after.first <= before.last:
                raise ValueError(f"the strata {before.first}-{before.last} and {after.first}-{after.last} overlap")
        return self


class PrefilterConfig(Section):
    """Rules for skipping candidates without judging them; none by default."""

    min_words: int = Field(0, ge=0)
    """Minimum number of words of a passage that is judged; counted as BM25 does, without stop words."""
    shared_word: bool = False
    """Whether to skip passages that share no stemmed word with the query, stop words excluded."""


class PositivesConfig(Section):
    """Choice of the positives of training data among passages judged relevant; the qrels have all of them."""

    per_query: int | None = Field(None, ge=1)
    """Maximum number of positives per query, the best grades first; none: all."""
    min_p: float = Field(0.0, ge=0, le=1)
    """Minimum probability of relevance of a positive, 0 to 1, if the judge gives probabilities."""


class NegativesConfig(Section):
    """Choice of hard negatives among judged passages."""

    per_query: int = Field(10, ge=0)
    """Maximum number of negatives per query."""
    margin: float = Field(0.95, gt=0, le=1)
    """Maximum score of a negative, as a share of the score of the weakest positive, above 0 to 1 (NV-Retriever,
    Moreira et al., 2024)."""
    margin_score: str = "dense"
    """Score that the margin applies to: dense, bm25, sparse, fused or rerank. Passages without it are no negatives."""
    top: int = Field(20, ge=1)
    """Number of ranks that count as the top of a list."""
    max_p: float = Field(0.5, gt=0, le=1)
    """Maximum probability of relevance of a negative, 0 to 1, if the judge gives probabilities."""
    near_duplicate: float = Field(0.8, gt=0, le=1)
    """Jaccard similarity of character 5-grams at and above which a passage counts as a copy of a positive."""


class PushConfig(Section):
    """Upload of the outputs to the hub; off by default. The token comes from HF_TOKEN or `hf auth login`."""

    repo_id: str | None = Field(None, pattern=r"^[\w.-]+/[\w.-]+$")
    """Dataset on the hub, `owner/name`, which is created if it does not exist; none: no upload."""
    private: bool = True
    """Whether a created dataset is private."""
    token_env: str | None = Field(None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Environment variable with the token; none: HF_TOKEN, or the login. The token itself is never saved."""


class SourceConfig(PassagesConfig):
    """Source of the passages."""

    source: Literal["store", "file", "documents", "hub"] = "store"
    """Kind of source. store: paragraphs of a data folder, with their vectors; file: JSON Lines or parquet, one passage
    per record; hub: a dataset of the hub, one passage per record; documents: a file or a dataset of the hub, whose
    records are cut into windows of tokens."""
    hub: HubConfig = HubConfig()
    """Dataset of the hub (hub, documents)."""
    path: Path | None = None
    """File, or folder of files (file, documents)."""
    data_dir: DataLocation = "data"
    """Data folder, or its URL (store)."""
    corpus: str | None = None
    """Name of the corpus (store); none: the only one, or the embedded one."""
    split: Split = "train"
    """Split of the corpus (store)."""

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
    """Source of the queries."""

    source: Literal["file", "hub", "sample"] = "file"
    """Kind of source. file: JSON Lines; hub: a dataset of the hub; sample: the queries of the bundled sample."""
    hub: HubConfig = HubConfig()
    """Dataset of the hub (hub)."""
    path: Path | None = None
    """File with the queries (file)."""
    id_field: str = "query_id"
    """Field with the id, a text or a whole number."""
    text_field: str = "query"
    """Field with the text."""
    max_queries: int | None = Field(None, ge=1)
    """Maximum number of queries, counted from the first; none: all."""

    @model_validator(mode="after")
    def _path_is_given(self) -> Self:
        if (self.source == "file") != (self.path is not None):
            raise ValueError(f"path is for the source file, and needed there; source is {self.source}")
        if (self.source == "hub") != bool(self.hub.name):
            raise ValueError(f"hub.name is for the source hub, and needed there; source is {self.source}")
        return self


class FoldersConfig(Section):
    """Folders of parts of a run; each is inside work_dir unless it is set."""

    records: Path | None = None
    """Folder of records that were fetched from the hub."""
    passages: Path | None = None
    """Folder of memory-mapped copies of passages."""
    indexes: Path | None = None
    """Folder of the BM25 index and of the vectors of passages."""
    state: Path | None = None
    """Folder of the state of all runs."""


class LoggingConfig(Section):
    """Log messages of the run."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Minimum log level."""
    file: Path | None = None
    """Log file with timestamps."""


class OutputConfig(Section):
    """Contents and copies of the output files."""

    zeros: bool = True
    """Whether qrels.tsv includes passages judged not relevant."""
    training_negatives: int = Field(3, ge=0)
    """Number of negatives in a row of training.parquet; queries with fewer are left out of that file."""
    beir: bool = False
    """Whether to also write a folder in BEIR layout, with all passages and queries."""
    qrels_path: Path | None = None
    """File that qrels.tsv is copied to."""
    triples_path: Path | None = None
    """File that triples.jsonl is copied to."""


class LabelConfig(Section):
    """Complete configuration of a weak label run, as in `weak_labels.yaml`."""

    run: FolderName = "weak_labels"
    """Name of the run and of its output folder."""
    work_dir: Path = Path("data/weak_labels")
    """Folder of the indexes, the state and the outputs of all runs."""
    folders: FoldersConfig = FoldersConfig()
    """Folders of parts of a run outside work_dir."""
    passages: SourceConfig = SourceConfig()
    """Source of the passages."""
    queries: QueriesConfig
    """Source of the queries."""
    gold: Path | Literal["sample"] | None = None
    """File of human relevance judgements in the format of TREC, MS MARCO, BEIR or MTEB, which calibrate the judge
    `similarity` and which the labels are compared with; sample: those of the bundled sample."""
    gold_relevant: int | None = Field(None, ge=1)
    """Lowest gold grade that counts as relevant; none: 1 if the highest grade is 1 or 2, and 2 if it is 3 or more (TREC
    Deep Learning, 0 to 3)."""
    runs: tuple[Path, ...] = ()
    """TREC run files of retrieval systems, which the report ranks by the labels and by gold, along with this run."""
    candidates: CandidateConfig = CandidateConfig()
    """Retrieval of candidates by BM25 and dense search."""
    rerank: RerankConfig = RerankConfig()
    """Reranking of candidates by a cross-encoder."""
    sampling: SamplingConfig = SamplingConfig()
    """Sampling of the candidates to judge."""
    prefilter: PrefilterConfig = PrefilterConfig()
    """Rules for skipping candidates without judging them; none by default."""
    judge: JudgeConfig = JudgeConfig()
    """Judge, its requests, and the handling of failures."""
    positives: PositivesConfig = PositivesConfig()
    """Choice of the positives of training data."""
    negatives: NegativesConfig = NegativesConfig()
    """Choice of hard negatives among judged passages."""
    output: OutputConfig = OutputConfig()
    """Contents and copies of the output files."""
    push: PushConfig = PushConfig()
    """Upload of the outputs to the hub; off by default."""
    logging: LoggingConfig = LoggingConfig()
    """Log messages of the run."""
    execution: ExecutionConfig = ExecutionConfig()
    """Workers that embed the passages, if these have no vectors; as in a main job, but for slurm."""

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
        fusion = self.candidates.fusion
        lists = [fusion] if fusion in {"bm25", "dense", "sparse"} else ["bm25", "dense"]
        scores = [*lists, *(["sparse"] if self.candidates.sparse and "sparse" not in lists else []), "fused"]
        scores = [*scores, "rerank"] if self.rerank.model else scores
        if self.negatives.margin_score not in scores:
            raise ValueError(
                f"negatives.margin_score {self.negatives.margin_score!r}: expected a score of this run, one of "
                f"{', '.join(scores)}"
            )
        return self
