"""The denoiser network, its attention topologies and their fast paths. Knows tensors, not files, noise or requests."""
