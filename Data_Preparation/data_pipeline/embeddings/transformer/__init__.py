"""Any Hugging Face text encoder, run by the fastest path that gives its own vectors."""
