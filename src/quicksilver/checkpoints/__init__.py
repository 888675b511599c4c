"""Checkpoint folders: weights, architecture and diffusion spec on disk, in Hugging Face's layout."""
