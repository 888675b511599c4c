"""The checker in the loop: which tokens are written anew, what it costs, and what is told."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

import quicksilver
from quicksilver.api import DecodingOptions, HoleOptions, InfillRequest, Repairs
from quicksilver.api.checking import Span
from quicksilver.errors import ConfigError
from tests.tiny_checkpoints import save_tiny_checkpoint


@dataclass(frozen=True)
class Found:
    message: str
    span: Span | None


@dataclass
class Scripted:
    """Finds what it is told to at each look, and remembers what it saw."""

    finds: Callable[[int, str, Sequence[Span]], list[Found]]
    name: str = "scripted"
    parts: tuple[str, ...] = ("all of it",)
    seen: list[tuple[str, list[Span]]] = field(default_factory=list)

    def __call__(self, text: str, written: Sequence[Span]) -> list[Found]:
        self.seen.append((text, list(written)))
        return self.finds(len(self.seen) - 1, text, written)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return quicksilver.load(save_tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny"), device="cpu")


@pytest.fixture(scope="module")
def asked(model):
    """Every request that reaches the engine."""
    requests = []
    run = model.run_together

    def together(given):
        requests.extend(given)
        return run(given)

    model.run_together = together
    return requests


def request(texts=("def ", "(xs): ", "\n"), length: int | None = 4, **options) -> InfillRequest:
    holes = tuple(HoleOptions(length=length) for _ in texts[1:])
    return InfillRequest(texts=texts, holes=holes, options=DecodingOptions(seed=3, **options))


def test_what_passes_is_what_would_be_written_without(model):
    check = Scripted(lambda *_: [])
    plain, checked = model.run(request()), model.run_checked(request(), check)
    assert checked.text == plain.text == check.seen[0][0]
    assert (checked.nfe, checked.check.num_rounds, checked.check.is_passed) == (plain.nfe, 0, True)
    assert (checked.check.name, checked.check.parts, checked.check.problems) == ("scripted", ("all of it",), ())
    for (start, stop), hole in zip(check.seen[0][1], checked.holes, strict=True):
        assert checked.text[start:stop] == hole.text


def test_only_the_tokens_of_a_problem_are_written_anew(model, asked):
    """The first round has two drafts of the span at fault; everything else of the file is given to the model."""

    def finds(number, _, written):
        return [] if number else [Found("wrong", (written[0][0], written[0][0] + 1))]

    asked.clear()
    first = model.run(request(length=8))
    check = Scripted(finds)
    checked = model.run_checked(request(length=8), check, Repairs(rounds=1, drafts=2))
    assert checked.check.is_passed
    near = asked[1]
    assert near.num_holes == 1
    assert near.texts[0] == "def "
    assert first.text.endswith(near.texts[1])
    kept = near.texts[1].removesuffix(first.text[check.seen[0][1][0][1] :])
    assert kept
    assert checked.holes[0].text.endswith(kept)
    assert checked.holes[1] == first.holes[1]
    assert len(checked.holes[0].tokens) == 8
    assert checked.text == "def " + checked.holes[0].text + "(xs): " + checked.holes[1].text + "\n"


def test_a_problem_without_a_place_frees_all_holes(model, asked):
    asked.clear()
    model.run_checked(request(), Scripted(lambda number, *_: [] if number else [Found("somewhere", None)]))
    assert {each.texts for each in asked} == {("def ", "(xs): ", "\n")}
    assert len({each.options.seed for each in asked}) == len(asked) == 5


def test_what_never_passes_is_what_was_written_first(model):
    plain = model.run(request())
    checked = model.run_checked(request(), Scripted(lambda *_: [Found("no", None)]), Repairs(rounds=2, drafts=3))
    assert checked.text == plain.text
    assert (checked.check.is_passed, checked.check.num_rounds, checked.check.num_drafts) == (False, 2, 6)
    assert checked.check.problems == ("no",)
    assert checked.nfe > plain.nfe


@settings(max_examples=15, deadline=None)
@given(max_nfe=st.integers(1, 40), rounds=st.integers(0, 3), drafts=st.integers(1, 4))
def test_the_budget_is_of_everything_together(model, max_nfe, rounds, drafts):
    given_request = request(max_nfe=max_nfe)
    checked = model.run_checked(
        given_request, Scripted(lambda *_: [Found("no", None)]), Repairs(rounds=rounds, drafts=drafts)
    )
    assert checked.nfe <= max_nfe
    assert checked.check.num_rounds <= rounds
    assert checked.check.num_drafts <= rounds * drafts


def test_the_same_request_has_the_same_repairs(model):
    def finds(number, *_):
        return [] if number == 3 else [Found("no", (6, 7))]

    first, second = (model.run_checked(request(temperature=1.0), Scripted(finds)) for _ in range(2))
    assert (first.text, first.nfe, first.check) == (second.text, second.nfe, second.check)


def test_tokens_of_a_merged_hole_spell_its_text(model):
    def finds(number, _, written):
        return [] if number == 1 else [Found("no", (written[1][0] + 1, written[1][0] + 2))]

    checked = model.run_checked(request(length=None), Scripted(finds))
    for hole in checked.holes:
        ids = [token.token_id for token in hole.tokens]
        assert model.tokenizer.decode(ids) == hole.text


def test_a_python_file_is_checked_through_the_public_interface(model):
    from quicksilver.coding.checks import PythonCheck

    filled = model.infill("x = ", "\n", hole_length=2, seed=1, check=PythonCheck(), repairs=Repairs(rounds=1))
    assert filled.check.name == "python"
    if filled.check.is_passed:
        compile(filled.text, "filled", "exec")
    assert model.infill("x = ", "\n", hole_length=2, seed=1).check is None


def test_what_cannot_be():
    with pytest.raises(ConfigError, match="rounds of repair"):
        Repairs(rounds=17)
    with pytest.raises(ConfigError, match="drafts of a round"):
        Repairs(drafts=0)


def test_a_line_end_behind_a_stop_is_of_one_hole(model):
    with pytest.raises(ConfigError, match="behind_stop"):
        model.run_checked(request(), Scripted(lambda *_: []), Repairs(behind_stop="\n"))
