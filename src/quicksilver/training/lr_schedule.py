"""Warm-up, stable, decay (WSD): a constant learning rate that a decay can branch off at any step.

Source: Hu et al. 2024, arXiv:2404.06395.
"""

from dataclasses import dataclass

from quicksilver.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class WarmupStableDecay:
    """Multiplier of the peak learning rate: linear up, flat, linear down to zero."""

    num_steps: int
    num_warmup_steps: int
    num_decay_steps: int

    def __post_init__(self) -> None:
        if min(self.num_steps, 1 + self.num_warmup_steps, 1 + self.num_decay_steps) < 1:
            raise ConfigError(f"steps must not be negative, and num_steps at least 1: {self}")
        if self.num_warmup_steps + self.num_decay_steps > self.num_steps:
            raise ConfigError(
                f"warm-up and decay take {self.num_warmup_steps + self.num_decay_steps} of {self.num_steps} steps"
            )

    def multiplier(self, step: int) -> float:
        """For the update of ``step``, counted from 0; in (0, 1] on the schedule's steps."""
        if step < self.num_warmup_steps:
            return (step + 1) / self.num_warmup_steps
        left = self.num_steps - step
        if left <= self.num_decay_steps:
            return left / (self.num_decay_steps + 1)
        return 1.0

    def is_decaying(self, step: int) -> bool:
        """True in the last ``num_decay_steps`` steps."""
        return self.num_steps - step <= self.num_decay_steps
