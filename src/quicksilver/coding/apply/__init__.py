"""Merging a lazy snippet, which shows only what changes, into its file: by structure and lines, without a model.

What the snippet leaves undetermined is a hole with candidates; what cannot be verified is an error.
"""

from quicksilver.coding.apply.checking import verify
from quicksilver.coding.apply.choosing import choose_candidates
from quicksilver.coding.apply.merging import merge
from quicksilver.coding.apply.pieces import Hole, Merge
from quicksilver.coding.apply.prompt import ApplyPrompt, parse_apply, render_apply

__all__ = [
    "ApplyPrompt",
    "Hole",
    "Merge",
    "choose_candidates",
    "merge",
    "parse_apply",
    "render_apply",
    "verify",
]
