"""Measuring models: infill suites, likelihoods, intervals. It judges text and never executes it."""
