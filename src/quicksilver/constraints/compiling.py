"""From a constraint to its automaton over tokens."""

import hashlib
import json
from collections import OrderedDict
from dataclasses import asdict
from importlib.metadata import version
from threading import Lock

from quicksilver.constraints.automaton import TokenAutomaton
from quicksilver.constraints.constraint import CompileOptions, Constraint, canonical
from quicksilver.constraints.language import Compiler
from quicksilver.constraints.lift import lift
from quicksilver.constraints.limits import Meter
from quicksilver.constraints.strings import Strings
from quicksilver.constraints.vocabulary import Vocabulary, vocabulary_of
from quicksilver.errors import ConfigError, UnsatisfiableConstraintError
from quicksilver.tokenization.tokenizer import Tokenizer

VERSION = 2
"""Of what compiling makes: to be raised when the same constraint becomes another automaton."""

_MAX_KEPT = 64
_kept: OrderedDict[str, TokenAutomaton] = OrderedDict()
_lock = Lock()


def compile_here(
    constraint: Constraint, vocabulary: Vocabulary, options: CompileOptions, *, eos_token_id: int
) -> TokenAutomaton:
    """Compile in this process, without any cache. Memory is not limited.

    Args:
        constraint: what is wanted.
        vocabulary: whose tokens.
        options: depth and limits.
        eos_token_id: ends a text.

    Raises:
        UnsupportedConstraintError: it asks what cannot be kept exactly; the message names it.
        UnsatisfiableConstraintError: no text satisfies it.
        ConstraintTooLargeError: a limit was passed.
        ConfigError: it is malformed.
    """
    meter = Meter(options.limits)
    compiler = Compiler(meter, options.recursion_depth)
    try:
        dfa = compiler.dfa(constraint.expression(compiler))
    except RecursionError:
        raise ConfigError("the constraint is nested too deeply") from None
    if dfa.is_empty:
        raise UnsatisfiableConstraintError(f"no text satisfies the constraint{_with_strings(constraint)}")
    unknown = [name for name in compiler.specials if name not in vocabulary.special]
    if unknown:
        known = " ".join(vocabulary.special)
        raise ConfigError(f"the constraint names {unknown[0]!r}, which is no special token; known: {known}")
    specials = [vocabulary.special[name] for name in compiler.specials]
    if eos_token_id in specials:
        raise ConfigError("the token that ends a text cannot stand inside a constraint")
    return lift(
        dfa,
        specials,
        eos_token_id,
        vocabulary,
        meter=meter,
        fingerprint=fingerprint_of(constraint, vocabulary, options, eos_token_id),
    )


def fingerprint_of(constraint: Constraint, vocabulary: Vocabulary, options: CompileOptions, eos_token_id: int) -> str:
    """sha256 of all that the automaton depends on; limits are none of it."""
    depends = {name: value for name, value in asdict(options).items() if name != "limits"}
    parts = [version("quicksilver-lm"), VERSION, canonical(constraint), vocabulary.fingerprint, depends, eos_token_id]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode("utf-8")).hexdigest()


def eos_of(tokenizer: Tokenizer) -> int:
    """The end of a text in this project's tokenizer.

    Raises:
        ConfigError: it is another's, whose end only the checkpoint knows.
    """
    if not tokenizer.is_own:
        raise ConfigError("eos_token_id must be given: the tokenizer does not say which token ends a text")
    return tokenizer.id_of("<eos>")


def _with_strings(constraint: Constraint) -> str:
    """What else a text must keep to: a stop text may be a name that the schema requires."""
    if not isinstance(constraint, Strings):
        return ""
    with_ = f" and holds {', '.join(map(repr, constraint.required))}" if constraint.required else ""
    without = f" without {', '.join(map(repr, constraint.banned))}" if constraint.banned else ""
    return with_ + without


def compile_constraint(
    constraint: Constraint,
    tokenizer: Tokenizer,
    options: CompileOptions | None = None,
    *,
    eos_token_id: int | None = None,
) -> TokenAutomaton:
    """The automaton of a constraint over a tokenizer's tokens; raises as ``compile_here``.

    Those asked for last are kept. For constraints of strangers see ``worker.compile_within``.

    Args:
        constraint: what is wanted.
        tokenizer: whose tokens.
        options: depth and limits.
        eos_token_id: ends a text; None: ``<eos>`` of this project's tokenizer.
    """
    eos = eos_of(tokenizer) if eos_token_id is None else eos_token_id
    options = options or CompileOptions()
    vocabulary = vocabulary_of(tokenizer)
    key = fingerprint_of(constraint, vocabulary, options, eos)
    with _lock:
        found = _kept.pop(key, None)
    if found is None:
        found = compile_here(constraint, vocabulary, options, eos_token_id=eos)
    with _lock:
        _kept[key] = found
        if len(_kept) > _MAX_KEPT:
            _kept.popitem(last=False)
    return found
