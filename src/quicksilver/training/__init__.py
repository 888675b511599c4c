"""Pretraining, fine-tuning and alignment: everything that changes weights, and the data for it."""
