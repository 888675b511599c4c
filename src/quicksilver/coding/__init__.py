"""Edits of code: prompts of next-edit models, merging a lazy snippet into its file. Never imports torch."""
