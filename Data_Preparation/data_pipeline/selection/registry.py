"""The selectors by name. A new one is a file in `selectors/`, a line here, and a test."""

from data_pipeline.selection.ranking import Selector
from data_pipeline.selection.selectors import (
    ccs,
    cleanlab,
    consistency,
    dedup,
    el2n,
    facility_location,
    forgetting,
    full,
    fusion,
    grand,
    herding,
    kcenter,
    kmeans,
    length_matched_random,
    llm_judge,
    perplexity,
    predictive_entropy,
    random,
    self_filter,
    semantic_lexical,
    sequential,
    stratified,
    text_metric,
    wordpiece_ratio,
)

SELECTORS: dict[str, Selector] = {
    # Baselines.
    "random": Selector(random.random, random.RandomConfig),
    "full": Selector(full.full, full.FullConfig),
    "length_matched_random": Selector(
        length_matched_random.length_matched_random, length_matched_random.LengthMatchedRandomConfig
    ),
    # Diversity.
    "kcenter": Selector(kcenter.kcenter, kcenter.KCenterConfig),
    "kmeans": Selector(kmeans.kmeans, kmeans.KMeansConfig),
    "herding": Selector(herding.herding, herding.HerdingConfig),
    "facility_location": Selector(facility_location.facility_location, facility_location.FacilityLocationConfig),
    "semantic_lexical": Selector(semantic_lexical.semantic_lexical, semantic_lexical.SemanticLexicalConfig),
    "stratified": Selector(stratified.stratified, stratified.StratifiedConfig),
    "dedup": Selector(dedup.dedup, dedup.DedupConfig),
    # Quality.
    "perplexity": Selector(perplexity.perplexity, perplexity.PerplexityConfig),
    "text_metric": Selector(text_metric.text_metric, text_metric.TextMetricConfig),
    "consistency": Selector(consistency.consistency, consistency.ConsistencyConfig),
    "llm_judge": Selector(llm_judge.llm_judge, llm_judge.LlmJudgeConfig),
    "cleanlab": Selector(cleanlab.cleanlab, cleanlab.CleanlabConfig),
    "self_filter": Selector(self_filter.self_filter, self_filter.SelfFilterConfig),
    # Importance.
    "predictive_entropy": Selector(predictive_entropy.predictive_entropy, predictive_entropy.PredictiveEntropyConfig),
    "wordpiece_ratio": Selector(wordpiece_ratio.wordpiece_ratio, wordpiece_ratio.WordpieceRatioConfig),
    "el2n": Selector(el2n.el2n, el2n.El2nConfig),
    "grand": Selector(grand.grand, grand.GrandConfig),
    "forgetting": Selector(forgetting.forgetting, forgetting.ForgettingConfig),
    "ccs": Selector(ccs.ccs, ccs.CcsConfig),
    # Hybrids.
    "hybrid_sequential": Selector(sequential.sequential, sequential.SequentialConfig),
    "hybrid_fusion": Selector(fusion.fusion, fusion.FusionConfig),
}
