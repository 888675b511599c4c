"""Subjects: a checkpoint in our engine, other engines, servers by URL."""
