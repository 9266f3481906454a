"""Embedders behind an API: OpenAI's and every server with its form, Cohere's, Voyage's."""
