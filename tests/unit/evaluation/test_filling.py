import pytest

import quicksilver
from quicksilver.api import DecodingOptions, InfillLayout
from quicksilver.decoding import DynamicFactor
from quicksilver.diffusion.spec import Objective
from quicksilver.errors import ConfigError
from quicksilver.evaluation.running import figures, run
from quicksilver.evaluation.subject import Answer, Ask, Subject
from quicksilver.evaluation.subjects.engine import EngineSubject, ExactPolicy
from quicksilver.evaluation.suite import Suite
from quicksilver.evaluation.suites.filling import FillSuite, InfillItem, Length, judge_hole
from tests.fake_subjects import FakeSubject
from tests.tiny_checkpoints import save_tiny_checkpoint

ITEMS = (
    InfillItem(item_id="a", prefix="def f(x):\n", middle="    return x\n", suffix=""),
    InfillItem(item_id="b", prefix="", middle="import os\n", suffix="print(os.sep)\n"),
    InfillItem(item_id="c", prefix="x = 1\n", middle="# why\n", suffix="y = 2\n", kind="comment"),
)
RIGHT = {(item.prefix, item.suffix): item.middle for item in ITEMS}


def suite_of(length: Length = Length.UNKNOWN, *, has_whole_lines: bool = True) -> FillSuite:
    return FillSuite(name="some", holes=ITEMS, length=length, has_whole_lines=has_whole_lines)


def values_of(subject: Subject, suite: FillSuite) -> dict[str, float]:
    return {name: each.value for name, each in figures(run(suite, subject, suite.items())).items()}


def test_the_contracts_are_kept():
    assert isinstance(suite_of(), Suite)
    assert isinstance(FakeSubject(RIGHT.__getitem__), Subject)


@pytest.mark.parametrize("length", list(Length))
def test_references_are_right_and_empty_answers_wrong(length: Length):
    right = values_of(FakeSubject(RIGHT.__getitem__), suite_of(length))
    assert [right[name] for name in ("exact_match", "edit_similarity", "parse_rate", "compile_rate")] == [1, 1, 1, 1]
    assert (right["length_error"], right["exact_match/kind=comment"]) == (0, 1)
    nothing = values_of(FakeSubject(lambda texts: ""), suite_of(length))
    assert (nothing["exact_match"], nothing["edit_similarity"]) == (0, 0)
    assert nothing["length_error"] == -nothing["absolute_length_error"] < -5


def test_garbage_does_not_parse():
    found = values_of(FakeSubject(lambda texts: ")(\n"), suite_of())
    assert (found["exact_match"], found["parse_rate"], found["compile_rate"]) == (0, 0, 0)


@pytest.mark.parametrize(
    ("text", "is_exact", "parses"),
    [
        ("    return x\n", True, True),
        ("    return x", True, True),
        ("    return x  \n\n", True, True),
        ("  return x\n", False, True),
        ("return x\n", False, False),
        ("    return x\n    return x\n", False, True),
        ("", False, False),
    ],
)
def test_only_trailing_white_space_is_forgiven(text: str, is_exact: bool, parses: bool):
    mark = judge_hole(ITEMS[0], Answer(texts=(text,), num_tokens=4, nfe=2, seconds=0.5, finish_reason="filled"))
    assert (mark.values["exact_match"], mark.values["parse_rate"]) == (is_exact, parses)
    assert "length_error" not in mark.values


def test_what_parses_may_still_not_compile():
    item = InfillItem(item_id="a", prefix="x = 1\n", middle="x\n", suffix="")
    answer = Answer(texts=("return x\n",), num_tokens=4, nfe=2, seconds=0.5, finish_reason="filled")
    values = judge_hole(item, answer).values
    assert (values["parse_rate"], values["compile_rate"]) == (1, 0)


def test_the_length_is_told_only_when_given():
    for length, told in ((Length.UNKNOWN, None), (Length.ONE_LINE, None), (Length.GIVEN, len(ITEMS[0].middle))):
        subject = FakeSubject(RIGHT.__getitem__)
        run(suite_of(length), subject, ITEMS[:1])
        assert [ask.hole_length for _, ask in subject.asked] == [told]


def test_the_line_end_of_one_line_is_a_stop_and_counts_as_no_token():
    subject = FakeSubject(lambda texts: RIGHT[texts] + "and more\n")
    (record, *_) = run(suite_of(Length.ONE_LINE), subject, ITEMS[:1])
    assert subject.asked[0][1].stop == ("\n",)
    assert record.answer.texts == (ITEMS[0].middle,)
    assert record.answer.num_tokens == record.answer.reference_tokens == len(ITEMS[0].middle) - 1


def test_one_line_is_for_holes_of_one_line():
    with pytest.raises(ConfigError, match="no single lines"):
        suite_of(Length.ONE_LINE, has_whole_lines=False)


def test_repetition_counts_where_there_is_room_for_it():
    def write(texts):
        return "    x = f(x)\n" * 4

    assert values_of(FakeSubject(write), suite_of(has_whole_lines=False))["repeated_lines"] == 0.75
    assert "repeated_lines" not in values_of(FakeSubject(write), suite_of())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> quicksilver.Model:
    return quicksilver.load(save_tiny_checkpoint(tmp_path_factory.mktemp("tiny")), device="cpu")


@pytest.mark.parametrize("layout", list(InfillLayout))
@pytest.mark.parametrize("length", list(Length))
def test_a_real_model_runs_through_every_way(model: quicksilver.Model, layout: InfillLayout, length: Length):
    subject = EngineSubject(name="tiny", model=model, layout=layout)
    suite = suite_of(length)
    records, again = run(suite, subject, ITEMS), run(suite, subject, ITEMS)
    assert [each.answer.texts for each in records] == [each.answer.texts for each in again]
    for item, record in zip(ITEMS, records, strict=True):
        wanted = item.middle.rstrip("\n") if length is Length.ONE_LINE else item.middle
        assert record.answer.reference_tokens == len(model.tokenizer.encode(wanted))
        assert (record.answer.nfe or 0) >= 1
        if length is Length.GIVEN and layout is InfillLayout.IN_PLACE:
            assert record.answer.num_tokens == record.answer.reference_tokens


def test_a_policy_object_decides(model: quicksilver.Model):
    policies = (ExactPolicy(exact_policy=DynamicFactor(factor=1e9)), DecodingOptions(threshold=2.0))
    eager, slow = (EngineSubject(name="tiny", model=model, options=options) for options in policies)
    for item in ITEMS:
        length = eager.count_tokens(item.middle)
        ask = Ask(seed=0, hole_length=length)
        assert eager.fill((item.prefix, item.suffix), ask).nfe == 1
        assert slow.fill((item.prefix, item.suffix), ask).nfe == length


@pytest.mark.parametrize("layout", list(InfillLayout))
def test_one_line_is_asked_of_a_real_model(model: quicksilver.Model, layout: InfillLayout):
    options = DecodingOptions(logit_bias=((model.tokenizer.newline_id, 6.0),))
    subject = EngineSubject(name="tiny", model=model, layout=layout, options=options)
    one, whole = (
        [each.answer.texts[0] for each in run(suite_of(length), subject, ITEMS, temperature=1.0)]
        for length in (Length.ONE_LINE, Length.UNKNOWN)
    )
    assert any(text.endswith("\n") for text in one)
    assert all("\n" not in text[:-1] for text in one)
    assert any(text.count("\n") > 1 for text in whole)


def test_the_twin_fills_after_the_suffix(tmp_path):
    twin = quicksilver.load(save_tiny_checkpoint(tmp_path, Objective.AUTOREGRESSIVE), device="cpu")
    records = run(suite_of(), EngineSubject(name="twin", model=twin), ITEMS)
    assert all((each.answer.nfe or 0) >= each.answer.num_tokens for each in records)
