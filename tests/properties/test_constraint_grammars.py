"""Random grammars: ours against all derivations, and against Lark's own parser."""

from itertools import product
from random import Random

import lark
import pytest
from lark.exceptions import LarkError

from quicksilver.constraints.grammar import Grammar
from quicksilver.errors import UnsupportedConstraintError
from tests.constraint_languages import language_of

NAMES = ("root", "one", "two")
MOST = 4
TEXTS = ["".join(letters) for length in range(MOST + 1) for letters in product("ab", repeat=length)]
Option = list[tuple[str, str]]
"""Symbols with ``""``, ``?``, ``*`` or ``+`` behind them."""


def random_rules(rng: Random) -> dict[str, list[Option]]:
    names = NAMES[: rng.randint(1, len(NAMES))]

    def option() -> Option:
        symbols = [rng.choice((*names, '"a"', '"b"', '"ab"')) for _ in range(rng.randint(0, 3))]
        return [(symbol, rng.choice(("", "", "", "?", "*", "+"))) for symbol in symbols]

    return {name: [option() for _ in range(rng.randint(1, 3))] for name in names}


def derived(rules: dict[str, list[Option]]) -> dict[str, set[str]]:
    """The texts of at most ``MOST`` letters of every rule: what rules are known to have grows until nothing is new."""
    found: dict[str, set[str]] = {name: set() for name in rules}

    def joined(left: set[str], right: set[str]) -> set[str]:
        return {one + other for one in left for other in right if len(one + other) <= MOST}

    def of_symbol(symbol: str, sign: str) -> set[str]:
        once = {symbol.strip('"')} if symbol.startswith('"') else found[symbol]
        several = set(once)
        while sign in ("*", "+") and not (more := joined(several, once)) <= several:
            several |= more
        return several | ({""} if sign in ("?", "*") else set())

    while True:
        before = sum(map(len, found.values()))
        for name, options in rules.items():
            for option in options:
                texts = {""}
                for symbol, sign in option:
                    texts = joined(texts, of_symbol(symbol, sign))
                found[name] |= texts
        if sum(map(len, found.values())) == before:
            return found


def written(rules: dict[str, list[Option]], sign: str, empty: str) -> str:
    def option_of(option: Option) -> str:
        return " ".join(map("".join, option)) or empty

    bodies = {name: " | ".join(map(option_of, options)) for name, options in rules.items()}
    return "\n".join(f"{name} {sign} {body}" for name, body in bodies.items())


@pytest.mark.parametrize("seed", range(150))
def test_a_grammar_has_the_texts_that_can_be_derived(seed):
    rules = random_rules(Random(f"grammar {seed}"))
    source = written(rules, "::=", empty='""')
    try:
        # A derivation of so few letters nests no deeper: where a rule derives itself alone, it could be left out.
        exact = language_of(Grammar(source), depth=MOST + 1)
        cut = language_of(Grammar(source), depth=0)
    except UnsupportedConstraintError as error:
        if "begins with itself" not in str(error):
            raise
        return
    wanted = derived(rules)["root"]
    assert {text for text in TEXTS if exact.accepts(text.encode())} == wanted, source
    kept = {text for text in TEXTS if cut.accepts(text.encode())}
    assert kept == wanted or (cut.is_clipped and kept < wanted), source


@pytest.mark.parametrize("seed", range(60))
def test_a_grammar_in_larks_form_has_the_texts_that_lark_parses(seed):
    rng = Random(f"lark {seed}")
    rules = random_rules(rng)
    source = written(rules, ":", empty="") + ("\n%ignore /b/" if rng.random() < 0.3 else "")
    try:
        language = language_of(Grammar(source, syntax="lark", start="root"), depth=MOST + 1)
    except UnsupportedConstraintError as error:
        if "begins with itself" not in str(error):
            raise
        return
    parser = lark.Lark(source, start="root", parser="earley", lexer="dynamic_complete", ambiguity="forest")

    def parses(text: str) -> bool:
        try:
            parser.parse(text)
        except LarkError:
            return False
        except RuntimeError as error:  # a mistake of Lark's own where a text has several derivations
            if "multiple start symbol items" not in str(error):
                raise
        return True

    assert {text for text in TEXTS if language.accepts(text.encode())} == set(filter(parses, TEXTS)), source
