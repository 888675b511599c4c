"""Measuring models: suites of questions, subjects that answer them, figures with intervals."""
