"""Short ways to compile constraints in tests."""

import os
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import quicksilver
from quicksilver.constraints.automaton import TokenAutomaton
from quicksilver.constraints.compiling import compile_constraint
from quicksilver.constraints.constraint import CompileOptions, Constraint
from quicksilver.constraints.dfa import Dfa
from quicksilver.constraints.expression import EMPTY, Expression
from quicksilver.constraints.language import Compiler
from quicksilver.constraints.limits import Limits, Meter
from quicksilver.tokenization.tokenizer import Tokenizer

# Never what a test is about, and machines are slow.
PATIENT = Limits(max_seconds=120.0)


@cache
def bundled_tokenizer() -> Tokenizer:
    return Tokenizer.load(Path(quicksilver.__file__).parent / "weights/quicksilver-coder/tokenizer.json")


def dfa_of(expression: Expression, depth: int = 3) -> Dfa:
    return Compiler(Meter(PATIENT), depth).dfa(expression)


def language_of(constraint: Constraint, depth: int = 3) -> Dfa:
    compiler = Compiler(Meter(PATIENT), depth)
    return compiler.dfa(constraint.expression(compiler))


def automaton_of(constraint: Constraint, depth: int = 3) -> TokenAutomaton:
    return compile_constraint(constraint, bundled_tokenizer(), CompileOptions(recursion_depth=depth, limits=PATIENT))


@dataclass(frozen=True)
class Stubborn:
    """A constraint whose compilation looks at no clock, as a library's might."""

    name: str = ""

    def expression(self, compiler: Compiler) -> Expression:
        time.sleep(600)
        return EMPTY


@dataclass(frozen=True)
class Fatal:
    """A constraint whose compilation ends its process, as the kernel does where memory is short."""

    name: str = ""

    def expression(self, compiler: Compiler) -> Expression:
        os._exit(1)
