"""From a constraint to its automaton over tokens."""

import hashlib
import json
from dataclasses import asdict

from quicksilver.constraints.automaton import TokenAutomaton
from quicksilver.constraints.constraint import CompileOptions, Constraint, canonical
from quicksilver.constraints.language import Compiler
from quicksilver.constraints.lift import lift
from quicksilver.constraints.limits import Meter
from quicksilver.constraints.vocabulary import vocabulary_of
from quicksilver.errors import ConfigError, UnsatisfiableConstraintError
from quicksilver.tokenization.tokenizer import Tokenizer

VERSION = 1
"""Of what compiling makes: to be raised when the same constraint becomes another automaton."""


def compile_here(
    constraint: Constraint, tokenizer: Tokenizer, options: CompileOptions, *, eos_token_id: int
) -> TokenAutomaton:
    """Compile in this process, without any cache.

    Args:
        constraint: what is wanted.
        tokenizer: whose tokens.
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
        raise UnsatisfiableConstraintError("no text satisfies the constraint")
    specials = [tokenizer.id_of(name) for name in compiler.specials]
    if eos_token_id in specials:
        raise ConfigError("the token that ends a text cannot stand inside a constraint")
    return lift(
        dfa,
        specials,
        eos_token_id,
        vocabulary_of(tokenizer),
        meter=meter,
        fingerprint=fingerprint_of(constraint, tokenizer, options, eos_token_id),
    )


def fingerprint_of(constraint: Constraint, tokenizer: Tokenizer, options: CompileOptions, eos_token_id: int) -> str:
    """sha256 of all that the automaton depends on; limits are none of it."""
    depends = {name: value for name, value in asdict(options).items() if name != "limits"}
    parts = [VERSION, canonical(constraint), vocabulary_of(tokenizer).fingerprint, depends, eos_token_id]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode("utf-8")).hexdigest()


def eos_of(tokenizer: Tokenizer) -> int:
    """The end of a text in this project's tokenizer.

    Raises:
        ConfigError: it is another's, whose end only the checkpoint knows.
    """
    if not tokenizer.is_own:
        raise ConfigError("eos_token_id must be given: the tokenizer does not say which token ends a text")
    return tokenizer.id_of("<eos>")


def compile_constraint(
    constraint: Constraint,
    tokenizer: Tokenizer,
    options: CompileOptions | None = None,
    *,
    eos_token_id: int | None = None,
) -> TokenAutomaton:
    """The automaton of a constraint over a tokenizer's tokens; raises as ``compile_here``.

    Args:
        constraint: what is wanted.
        tokenizer: whose tokens.
        options: depth and limits.
        eos_token_id: ends a text; None: ``<eos>`` of this project's tokenizer.
    """
    eos = eos_of(tokenizer) if eos_token_id is None else eos_token_id
    return compile_here(constraint, tokenizer, options or CompileOptions(), eos_token_id=eos)
