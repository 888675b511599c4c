import json
from pathlib import Path

import pytest

import quicksilver
from quicksilver.api import Completion, DecodingOptions, HoleText, InfillLayout, Token
from quicksilver.decoding import DynamicFactor, FinishReason
from quicksilver.diffusion.spec import Objective
from quicksilver.errors import ConfigError
from quicksilver.evaluation.infill import ExactPolicy, Filler, ModelFiller, judge, run_suite, summarise
from quicksilver.evaluation.results import ResultLog
from quicksilver.evaluation.suites import InfillItem, LineKind
from tests.tiny_checkpoints import save_tiny_checkpoint

ITEMS = [
    InfillItem(item_id="a", prefix="def f(x):\n", middle="    return x\n", suffix=""),
    InfillItem(item_id="b", prefix="", middle="import os\n", suffix="print(os.sep)\n"),
    InfillItem(item_id="c", prefix="x = 1\n", middle="# why\n", suffix="y = 2\n", kind=LineKind.COMMENT),
]


def completion(text: str, *, num_tokens: int = 4, nfe: int = 2) -> Completion:
    token = Token(token_id=50, text="", confidence=1.0, step=1)
    return Completion(
        text=text,
        holes=(HoleText(text=text, tokens=(token,) * num_tokens),),
        nfe=nfe,
        num_edits=0,
        seconds=0.5,
        finish_reason=FinishReason.FILLED,
        seed=0,
        trace=(),
    )


class FakeFiller:
    """Writes what ``answers`` says for a prefix; counts one token per character."""

    def __init__(self, answers: dict[str, str]) -> None:
        self.answers = answers
        self.calls: list[tuple[str, int | None]] = []

    def count_tokens(self, text: str) -> int:
        return len(text)

    def fill(self, prefix: str, suffix: str, hole_length: int | None) -> Completion:
        self.calls.append((prefix, hole_length))
        return completion(self.answers[prefix], num_tokens=len(self.answers[prefix]))


def copying() -> FakeFiller:
    return FakeFiller({item.prefix: item.middle for item in ITEMS})


def test_the_right_answers_are_all_exact():
    summary = summarise(run_suite(copying(), ITEMS, is_length_given=False))
    assert summary.exact_match.value == summary.exact_match.low == 1.0
    assert summary.parse_rate.value == 1.0
    assert summary.length_error.value == 0.0
    assert summary.items_by_kind == {"code": 2, "comment": 1}
    assert summary.exact_match_by_kind["comment"].value == 1.0


def test_garbage_is_never_exact_and_does_not_parse():
    summary = summarise(run_suite(FakeFiller({item.prefix: ")(\n" for item in ITEMS}), ITEMS, is_length_given=False))
    assert summary.exact_match.value == summary.exact_match.high == 0.0
    assert summary.parse_rate.value == 0.0
    assert summary.length_error.value < 0
    assert summary.absolute_length_error.value == -summary.length_error.value


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
    result = judge(ITEMS[0], completion(text), reference_tokens=4)
    assert (result.is_exact, result.parses) == (is_exact, parses)


def test_figures_are_of_sums():
    results = [
        judge(ITEMS[0], completion("a", num_tokens=9, nfe=1), reference_tokens=4),
        judge(ITEMS[1], completion("b", num_tokens=1, nfe=4), reference_tokens=3),
    ]
    summary = summarise(results)
    assert summary.tpf.value == pytest.approx(10 / 5)
    assert summary.nfe.value == pytest.approx(2.5)
    assert summary.tokens_per_s.value == pytest.approx(10 / 1.0)
    assert summary.length_error.value == pytest.approx((5 - 2) / 2)
    assert summary.absolute_length_error.value == pytest.approx((5 + 2) / 2)
    json.dumps(summary.to_dict())


def test_the_length_is_told_only_when_given():
    filler = copying()
    run_suite(filler, ITEMS[:1], is_length_given=False)
    run_suite(filler, ITEMS[:1], is_length_given=True)
    assert [length for _, length in filler.calls] == [None, len(ITEMS[0].middle)]


class StopError(Exception):
    pass


class StoppingFiller(FakeFiller):
    """Fails at its third item."""

    def fill(self, prefix: str, suffix: str, hole_length: int | None) -> Completion:
        if len(self.calls) == 2:
            raise StopError
        return super().fill(prefix, suffix, hole_length)


def test_a_run_goes_on_where_it_stopped(tmp_path: Path):
    path = tmp_path / "items.jsonl"
    with pytest.raises(StopError):
        run_suite(StoppingFiller(copying().answers), ITEMS, is_length_given=False, log=ResultLog(path, {"suite": "s"}))
    with path.open("a") as file:
        file.write('{"item_id": "c", "te')  # a kill in the middle of a line
    filler, seen = copying(), []
    results = run_suite(
        filler,
        ITEMS,
        is_length_given=False,
        log=ResultLog(path, {"suite": "s"}),
        on_item=lambda r: seen.append(r.item_id),
    )
    assert [prefix for prefix, _ in filler.calls] == [ITEMS[2].prefix]
    assert seen == ["a", "b", "c"]
    assert results == run_suite(copying(), ITEMS, is_length_given=False)
    assert len(path.read_text().splitlines()) == 4


def test_results_of_another_run_are_not_mixed_in(tmp_path: Path):
    path = tmp_path / "items.jsonl"
    ResultLog(path, {"suite": "s", "seed": 0})
    with pytest.raises(ConfigError, match="another run"):
        ResultLog(path, {"suite": "s", "seed": 1})


def test_a_damaged_log_is_a_clear_error(tmp_path: Path):
    path = tmp_path / "items.jsonl"
    log = ResultLog(path, {})
    with path.open("a") as file:
        file.write("half a li\n")
    with pytest.raises(ConfigError, match="damaged"):
        log.read()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> quicksilver.Model:
    return quicksilver.load(save_tiny_checkpoint(tmp_path_factory.mktemp("tiny")), device="cpu")


@pytest.mark.parametrize("layout", list(InfillLayout))
@pytest.mark.parametrize("is_length_given", [True, False])
def test_a_real_model_runs_through_every_way(model: quicksilver.Model, layout: InfillLayout, is_length_given: bool):
    filler = ModelFiller(model=model, layout=layout)
    assert isinstance(filler, Filler)
    results = run_suite(filler, ITEMS, is_length_given=is_length_given)
    assert results == [
        # Seconds differ between runs; everything else is a function of the seed.
        type(again)(**{**{f: getattr(again, f) for f in again.__slots__}, "seconds": result.seconds})
        for result, again in zip(results, run_suite(filler, ITEMS, is_length_given=is_length_given), strict=True)
    ]
    for item, result in zip(ITEMS, results, strict=True):
        assert result.reference_tokens == len(model.tokenizer.encode(item.middle))
        assert result.nfe >= 1
        if is_length_given and layout is InfillLayout.IN_PLACE:
            assert result.num_tokens == result.reference_tokens


def test_a_policy_object_decides(model: quicksilver.Model):
    eager = ModelFiller(
        model=model, layout=InfillLayout.IN_PLACE, options=ExactPolicy(exact_policy=DynamicFactor(factor=1e9), seed=0)
    )
    slow = ModelFiller(model=model, layout=InfillLayout.IN_PLACE, options=DecodingOptions(threshold=2.0, seed=0))
    for item in ITEMS:
        length = eager.count_tokens(item.middle)
        assert eager.fill(item.prefix, item.suffix, length).nfe == 1
        assert slow.fill(item.prefix, item.suffix, length).nfe == length


@pytest.mark.parametrize("layout", list(InfillLayout))
def test_one_line_is_asked_for(model: quicksilver.Model, layout: InfillLayout):
    line_end = model.tokenizer.newline_id
    options = DecodingOptions(seed=0, temperature=1.0, logit_bias=((line_end, 6.0),))
    filler = ModelFiller(model=model, layout=layout, options=options, is_one_line=True)
    whole = ModelFiller(model=model, layout=layout, options=options)
    texts = [filler.fill(item.prefix, item.suffix, None).holes[0].text for item in ITEMS]
    assert any(text.endswith("\n") for text in texts)
    assert all("\n" not in text[:-1] for text in texts)
    assert any(whole.fill(item.prefix, item.suffix, None).holes[0].text.count("\n") > 1 for item in ITEMS)
    assert filler.count_tokens("x\n") == filler.count_tokens("x")
    with pytest.raises(ConfigError, match="given length"):
        filler.fill("x", "y", 3)


def test_the_twin_fills_after_the_suffix(tmp_path: Path):
    twin = quicksilver.load(save_tiny_checkpoint(tmp_path, Objective.AUTOREGRESSIVE), device="cpu")
    results = run_suite(ModelFiller(model=twin, layout=InfillLayout.PSM), ITEMS, is_length_given=False)
    assert all(result.nfe >= result.num_tokens for result in results)
