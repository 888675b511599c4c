"""Noise processes, objectives and likelihoods: torch only, no files, no models."""
