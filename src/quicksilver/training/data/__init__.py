"""From token files to noisy training batches, every step a pure function of (seed, step, global row)."""
