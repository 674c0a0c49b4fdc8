"""Models: an entry of params.yaml, validated by its family, and its weights on disk."""
