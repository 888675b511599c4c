"""Quality against speed: decoding settings of a diffusion model beside its autoregressive twin, and where it loses."""
