from data_pipeline.embeddings import HashingEmbedder


class Counting(HashingEmbedder):
    """Counts the texts it is given, and fails when it has been given enough."""

    def __init__(self, config, enough=10**9):
        super().__init__(config)
        self.enough, self.texts = enough, 0

    def forward(self, texts, dtype=None):
        if self.texts + len(texts) > self.enough:
            raise KeyboardInterrupt
        self.texts += len(texts)
        return super().forward(texts, dtype)
