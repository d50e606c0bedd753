"""A small DeepSeek-shaped language model from scratch, on a folder of texts."""
