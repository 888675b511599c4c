"""The inference engine: many requests in one batch, the same tokens as the reference samplers."""
