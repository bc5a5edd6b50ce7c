"""Models in Hugging Face format: read, written, imported."""
