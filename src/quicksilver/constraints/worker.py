"""Compiling constraints of strangers: to be run in a process of its own, which may be killed."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from quicksilver.constraints.automaton import TokenAutomaton
from quicksilver.constraints.compiling import compile_here
from quicksilver.constraints.constraint import CompileOptions, Constraint
from quicksilver.constraints.vocabulary import Vocabulary
from quicksilver.errors import ConstraintTooLargeError


def compile_within(
    constraint: Constraint, vocabulary: Vocabulary, options: CompileOptions, eos_token_id: int
) -> TokenAutomaton:
    """``compile_here``, with at most ``max_memory_mb`` of the limits more than the process already has.

    Everything goes in and out by value. ``max_seconds`` is looked at between steps only: who waits for the process
    kills it when it takes much longer. Memory is limited on Linux only.

    Raises:
        ConstraintTooLargeError: a limit was passed, memory among them.
        ConfigError: as by ``compile_here``.
    """
    limit = options.limits.max_memory_mb
    try:
        with _memory_limit(limit):
            return compile_here(constraint, vocabulary, options, eos_token_id=eos_token_id)
    except (MemoryError, SystemError):  # CPython raises the latter where an allocation fails at the wrong moment
        raise ConstraintTooLargeError(
            f"the constraint takes more than max_memory_mb={limit} to compile: lower lengths, counts or the recursion "
            "depth, close open objects, or raise the limit"
        ) from None


@contextmanager
def _memory_limit(megabytes: int) -> Iterator[None]:
    if sys.platform != "linux":
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = psutil.Process().memory_info().vms + (megabytes << 20)
    resource.setrlimit(resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
