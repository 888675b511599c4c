"""Decisions: scores against whole recomputed canvases, one label alone, calibration, what is refused."""

import dataclasses
import math

import pytest
import torch

import quicksilver
from quicksilver.api.deciding import softened, with_blank
from quicksilver.diffusion.spec import Layout, Objective
from quicksilver.errors import ConfigError, ContextLengthError, InputError
from tests.tiny_checkpoints import MAX_LENGTH, save_tiny_checkpoint

BEFORE, AFTER = "def mean(xs):\n    return total ", " len(xs)\n"
LABELS = ("/", "*", "+ 1 -", "median")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return quicksilver.load(save_tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny"), device="cpu")


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    folder = save_tiny_checkpoint(tmp_path_factory.mktemp("model") / "ar", Objective.AUTOREGRESSIVE)
    return quicksilver.load(folder, device="cpu")


def ids(model, text):
    return list(model.tokenizer.encode(text))


def test_scores_are_means_over_masks_of_a_canvas_in_place(model):
    found = model.decide(BEFORE, AFTER, LABELS)
    special = model.spec.special
    for label, score in zip(LABELS, found.scores, strict=True):
        written, head = ids(model, f" {label}"), ids(model, BEFORE[:-1])
        canvas = [special.canvas, *head, *[special.mask] * len(written), *ids(model, AFTER)]
        rows = model.logits(canvas, layout=Layout.IN_PLACE).log_softmax(-1)[1 + len(head) :]
        expected = sum(float(rows[place, token]) for place, token in enumerate(written)) / len(written)
        assert score == pytest.approx(expected, abs=1e-4)
    assert found.num_prompt == len(ids(model, BEFORE[:-1])) + len(ids(model, AFTER))
    assert found.nfe == 1


def test_scores_of_an_autoregressive_checkpoint_are_likelihoods_of_the_whole_text(twin):
    found = twin.decide(BEFORE, AFTER, LABELS)
    for label, score in zip(LABELS, found.scores, strict=True):
        head, rest = ids(twin, BEFORE[:-1]), ids(twin, f" {label}") + ids(twin, AFTER)
        rows = twin.next_token_logprobs([*head, *rest])[len(head) :]
        assert score == pytest.approx(float(rows[range(len(rest)), rest].sum()), abs=1e-3)


@pytest.mark.parametrize("kind", ["model", "twin"])
def test_a_label_scores_the_same_whatever_else_is_asked(kind, request):
    model = request.getfixturevalue(kind)
    together = model.decide(BEFORE, AFTER, LABELS).scores
    alone = [model.decide(BEFORE, AFTER, [label]).scores[0] for label in LABELS]
    assert together == pytest.approx(alone, abs=1e-4)


def test_probabilities_are_softened_by_the_checkpoints_temperature(model, tmp_path):
    found = model.decide(BEFORE, AFTER, LABELS)
    assert found.probabilities == pytest.approx(torch.tensor(found.scores).double().softmax(0).tolist(), abs=1e-9)
    assert found.label == LABELS[found.scores.index(max(found.scores))]
    decoding = dataclasses.replace(model.spec.decoding, decision_temperature=3.0)
    softer = dataclasses.replace(model.spec, decoding=decoding)
    model_spec, model.spec = model.spec, softer
    try:
        assert model.decide(BEFORE, AFTER, LABELS).probabilities == pytest.approx(softened(found.scores, 3.0))
    finally:
        model.spec = model_spec


def test_confidence_is_0_for_a_guess_and_1_where_there_is_no_doubt(model):
    assert model.decide(BEFORE, AFTER, ["/"]).confidence == 1.0
    found = model.decide(BEFORE, AFTER, LABELS)
    assert found.confidence == pytest.approx((max(found.probabilities) - 0.25) / 0.75)


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ("x = ", ("x =", [" a"])),
        ("x =", ("x =", ["a"])),
        ("    ", ("    ", ["a"])),
        ("x\n ", ("x\n ", ["a"])),
        (" ", (" ", ["a"])),
        ("", ("", ["a"])),
    ],
)
def test_a_blank_belongs_to_the_label_but_an_indentation_does_not(before, expected):
    assert with_blank(before, ["a"]) == expected


def test_long_texts_are_seen_near_the_label_or_refused(model):
    long = "x = 1\n" * MAX_LENGTH
    found = model.decide(long, long, LABELS)
    assert found.num_prompt < MAX_LENGTH
    assert all(math.isfinite(score) for score in found.scores)
    with pytest.raises(ContextLengthError, match="the question takes"):
        model.decide(long, "", LABELS, may_crop=False)
    with pytest.raises(ContextLengthError, match="the longest label takes"):
        model.decide("", "", [long])


@pytest.mark.parametrize("labels", [[], ["a", "a"], ["a", ""], [str(number) for number in range(256)]])
def test_labels_that_say_nothing_are_refused(model, labels):
    with pytest.raises(InputError, match="label"):
        model.decide(BEFORE, AFTER, labels)


def test_checkpoints_that_fill_no_holes_are_refused(model):
    spec = model.spec
    model.spec = dataclasses.replace(spec, layouts=(Layout.BLOCK_CAUSAL,))
    try:
        with pytest.raises(ConfigError, match="holes in place"):
            model.decide(BEFORE, AFTER, LABELS)
    finally:
        model.spec = spec


def test_a_temperature_must_be_positive(model):
    with pytest.raises(ConfigError, match="decision_temperature"):
        dataclasses.replace(model.spec.decoding, decision_temperature=0.0)
