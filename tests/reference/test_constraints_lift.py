"""The lift by functions of states against walking every token's bytes from every state."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quicksilver.constraints.automaton import NO_CLASS
from quicksilver.constraints.choice import Choice
from quicksilver.constraints.dfa import BYTES, DEAD
from quicksilver.constraints.expression import Rule, Special, alternatives, optional, sequence
from quicksilver.constraints.language import Compiler
from quicksilver.constraints.lift import lift
from quicksilver.constraints.limits import Meter
from quicksilver.constraints.regex import Regex, regex_expression
from quicksilver.constraints.vocabulary import Vocabulary, _levels, vocabulary_of
from quicksilver.errors import ConfigError, UnsatisfiableConstraintError
from tests.constraint_languages import PATIENT, automaton_of, bundled_tokenizer, dfa_of, language_of

PATTERNS = [
    "",
    r"\d{4}-\d{2}-\d{2}",
    r'"[^"\\]{0,20}"',
    r"(?a)(def|class) \w{1,3}:\n",
    "(?s).*",
    "[äöü]+",
    r"\{\"a\": (true|\d+)\}",
]


def walked(dfa, data):
    """Per state the state behind some bytes."""
    states = np.arange(len(dfa.table))
    for byte in data:
        states = np.where(states == DEAD, DEAD, dfa.table[states, dfa.symbol_class[byte]])
    return states


def check(dfa, automaton, token_bytes, special_symbols, eos):
    """Every token from every state, numbering aside: states correspond through the walk from the start."""
    steps = [walked(dfa, data) if data else np.full(len(dfa.table), DEAD) for data in token_bytes]
    for token, symbol in special_symbols.items():
        steps[token] = dfa.table[:, dfa.symbol_class[symbol]]
    partner, waiting = {automaton.start: 0}, [automaton.start]
    while waiting:
        state = waiting.pop()
        assert automaton.is_accepting[state] == dfa.is_accepting[partner[state]]
        assert (automaton.step(state, eos) == automaton.end) == dfa.is_accepting[partner[state]]
        for token, step in enumerate(steps):
            if token == eos:
                continue
            wanted, found = int(step[partner[state]]), automaton.step(state, token)
            assert (found is None) == (wanted == DEAD)
            if found is not None and found not in partner:
                partner[found] = wanted
                waiting.append(found)
            assert found is None or partner[found] == wanted
    assert len(set(partner.values())) == len(partner) == automaton.num_states - 1


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_token_from_every_state(pattern):
    tokenizer = bundled_tokenizer()
    token_bytes = [tokenizer.token_bytes(index) for index in range(tokenizer.vocab_size)]
    check(language_of(Regex(pattern)), automaton_of(Regex(pattern)), token_bytes, {}, tokenizer.id_of("<eos>"))


@given(st.sets(st.text("abc", min_size=1, max_size=4), max_size=12), st.sampled_from(["(ab|c)*", "a.{0,3}", "[ab]+c?"]))
@settings(max_examples=60)
def test_random_vocabularies(texts, pattern):
    # Bytes of their own, so that no text is out of reach; one token twice, eos without bytes.
    token_bytes = [b"", b"a", b"b", b"c", b"a", *(text.encode() for text in sorted(texts))]
    dfa = dfa_of(regex_expression(pattern.replace(".", "[a-c]")))
    vocabulary = Vocabulary(len(token_bytes), _levels(token_bytes), "")
    automaton = lift(dfa, [], 0, vocabulary, meter=Meter(PATIENT), fingerprint="")
    check(dfa, automaton, token_bytes, {}, 0)


def test_special_tokens_are_edges_of_their_own():
    compiler = Compiler(Meter(PATIENT), 3)
    dfa = compiler.dfa(sequence(optional(Special("x")), "ab", Special("y")))
    token_of = {"x": 4, "y": 5}
    specials = [token_of[name] for name in compiler.specials]
    token_bytes = [b"", b"a", b"b", b"ab", b"", b"", b"c"]
    automaton = lift(dfa, specials, 0, Vocabulary(7, _levels(token_bytes), ""), meter=Meter(PATIENT), fingerprint="")
    check(dfa, automaton, token_bytes, {token: BYTES + index for index, token in enumerate(specials)}, 0)
    assert automaton.walk([4, 3, 5, 0, 0]) == automaton.end
    assert automaton.token_class[6] == NO_CLASS


def test_the_contract_holds():
    automaton = automaton_of(Regex(r'\{"a": (true|\d{1,3})\}'))
    order = np.lexsort((automaton.edge_class, automaton.edge_from, automaton.edge_to))
    assert np.array_equal(order, np.arange(len(order)))
    assert automaton.distance[automaton.end] == 0
    assert automaton.is_accepting[automaton.end]
    inner = np.flatnonzero(np.arange(automaton.num_states) != automaton.end)
    for state in inner:
        assert (
            automaton.distance[state] == 1 + automaton.distance[automaton.edge_to[automaton.edge_from == state]].min()
        )
    edges = zip(automaton.edge_from.tolist(), automaton.edge_class.tolist(), strict=True)
    assert len(set(edges)) == len(automaton.edge_from)
    assert set(automaton.token_class.tolist()) == {NO_CLASS, *range(automaton.num_classes)}
    for array in (
        automaton.token_class,
        automaton.edge_from,
        automaton.edge_class,
        automaton.edge_to,
        automaton.distance,
    ):
        assert array.dtype == np.int32
    columns = {}
    for kind in range(automaton.num_classes):
        here = automaton.edge_class == kind
        columns[kind] = (automaton.edge_from[here].tobytes(), automaton.edge_to[here].tobytes())
    assert len(set(columns.values())) == len(columns)


def test_texts_out_of_reach_are_an_error():
    with pytest.raises(UnsatisfiableConstraintError):
        lift(
            dfa_of(regex_expression("b")),
            [],
            0,
            Vocabulary(2, _levels([b"", b"a"]), ""),
            meter=Meter(PATIENT),
            fingerprint="",
        )
    with pytest.raises(UnsatisfiableConstraintError):
        automaton_of(Regex(r"a(?=b)c"))
    with pytest.raises(ConfigError, match="at least one"):
        Choice(())


def test_a_choice_is_its_options_and_nothing_else():
    automaton = automaton_of(Choice(("yes", "no", "not at all")))
    tokenizer = bundled_tokenizer()
    eos = tokenizer.id_of("<eos>")
    for text, is_option in (
        ("yes", True),
        ("not at all", True),
        ("no", True),
        ("not", False),
        ("yess", False),
        ("", False),
    ):
        assert (automaton.walk([*tokenizer.encode(text), eos]) == automaton.end) == is_option


def test_the_trie_holds_every_token_once():
    tokenizer = bundled_tokenizer()
    vocabulary = vocabulary_of(tokenizer)
    assert vocabulary_of(tokenizer) is vocabulary
    texts, found = [b""], {}
    for level in vocabulary.levels:
        texts = [texts[parent] + bytes([byte]) for parent, byte in zip(level.parent, level.byte, strict=True)]
        assert len(set(texts)) == len(texts)
        found |= {int(token): texts[node] for node, token in zip(level.end_node, level.end_token, strict=True)}
    wanted = {index: tokenizer.token_bytes(index) for index in range(tokenizer.vocab_size)}
    assert found == {index: data for index, data in wanted.items() if data}


def test_fingerprints_tell_constraints_apart():
    one, other = automaton_of(Regex("a")), automaton_of(Regex("a", search=True))
    assert one.fingerprint != other.fingerprint
    assert automaton_of(Regex("a")).fingerprint == one.fingerprint
    assert automaton_of(Regex("a"), depth=2).fingerprint != one.fingerprint


def test_the_start_may_be_inside_a_loop():
    rule = Rule("again")
    rule.body = alternatives("", sequence("a", rule))
    automaton = lift(dfa_of(rule), [], 0, Vocabulary(2, _levels([b"", b"a"]), ""), meter=Meter(PATIENT), fingerprint="")
    assert (automaton.num_states, automaton.distance.tolist()) == (2, [1, 0])
