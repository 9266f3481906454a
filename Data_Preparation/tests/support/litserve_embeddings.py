"""Serves a folder's model by LitServe, with OpenAI's API of embeddings: `python litserve_embeddings.py FOLDER PORT`."""

import sys

import litserve
from sentence_transformers import SentenceTransformer


class Api(litserve.LitAPI):
    def setup(self, device):
        self.model = SentenceTransformer(sys.argv[1], device="cpu")

    def predict(self, texts):
        return self.model.encode([texts] if isinstance(texts, str) else texts)


if __name__ == "__main__":
    server = litserve.LitServer(Api(spec=litserve.OpenAIEmbeddingSpec()), accelerator="cpu")
    server.run(port=int(sys.argv[2]), host="127.0.0.1", generate_client_file=False)
