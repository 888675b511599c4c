"""Subjects: a checkpoint in our engine, other engines, servers by URL."""

from quicksilver.evaluation.subjects.making import make_subject
from quicksilver.evaluation.subjects.settings import Settings

__all__ = ["Settings", "make_subject"]
