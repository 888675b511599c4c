"""The suite of decisions: which places it finds, what it asks, how it judges, and the temperature of a model."""

import numpy as np
import pytest

import quicksilver
from quicksilver.errors import ConfigError
from quicksilver.evaluation.running import figures, run
from quicksilver.evaluation.subject import Answer
from quicksilver.evaluation.subjects.engine import EngineSubject
from quicksilver.evaluation.suites.decisions import calibrate, decisions_suite, sample_decisions, with_temperature
from tests.fake_documents import char_corpus
from tests.fake_subjects import FakeSubject
from tests.tiny_checkpoints import save_tiny_checkpoint

FILE = '''def spread(values, scale=None):
    """Not a place: x == y, None."""
    low = min(values)
    for each in values:
        if each is not low and scale != 0:
            continue
        low = (low
               + each)
    grown = [low * each for each in values]
    return grown, True


def inner(a):
    def inside(b):
        return a - b
    return
'''


def found(count=3, seed=0):
    return sample_decisions(char_corpus(FILE).sources(), count, seed)


def everything(kind):
    """All places of a kind, by asking for more and more of them."""
    most = {"operator": 5, "keyword": 4, "name": 8}[kind]
    turn = ("operator", "keyword", "name").index(kind)
    return [found(3, seed)[turn] for seed in range(60 * most)]


def test_operators_are_asked_among_their_group():
    seen = {(each.labels[each.right], len(each.labels)) for each in everything("operator")}
    # The + has a line's end in front of it.
    assert seen == {("is not", 2), ("and", 2), ("!=", 6), ("*", 6), ("-", 6)}


def test_keywords_are_constants_and_statements():
    seen = {(each.labels[each.right], len(each.labels)) for each in everything("keyword")}
    assert seen == {("None", 3), ("True", 3), ("continue", 4), ("return", 4)}


def test_names_are_asked_among_what_the_function_binds_before():
    for each in everything("name"):
        right = each.labels[each.right]
        line = each.before.count("\n")
        assert right in {"values", "each", "low", "scale", "grown"}
        assert ("grown" in each.labels) <= (line > 8)
        assert set(each.labels) <= {"values", "scale", "low", "each", "grown"}
        assert 2 <= len(each.labels) <= 4


def test_items_rebuild_their_file_and_repeat():
    items = found()
    assert items == found()
    assert [each.kind for each in items] == ["operator", "keyword", "name"]
    for each in items:
        assert each.before + each.labels[each.right] + each.after == FILE
        assert len(set(each.labels)) == len(each.labels)
    with pytest.raises(ConfigError, match="number of items"):
        found(60)


class FakeDecider(FakeSubject):
    """Is sure of the last label."""

    def decide(self, before, after, labels):
        scores = tuple(float(number) for number in range(len(labels)))
        odds = np.eye(len(labels))[-1]
        return Answer(
            texts=(labels[-1],),
            num_tokens=0,
            nfe=1,
            seconds=0.75,
            finish_reason="read",
            nats={"scores": scores, "probabilities": tuple(map(float, odds))},
        )


def test_figures_are_of_the_calibrated_and_the_plain_probabilities():
    suite = decisions_suite(char_corpus(FILE), count=12, seed=0)
    records = run(suite, FakeDecider(lambda texts: "x"), suite.items())
    by_name = figures(records)
    is_last = np.array([item.right == len(item.labels) - 1 for item in suite.items()])
    assert by_name["accuracy"].value == pytest.approx(is_last.mean())
    assert by_name["forwards"].value == pytest.approx(0.75 / 0.25)
    assert by_name["nll_plain"].value > 0
    assert {"accuracy/kind=operator", "accuracy/kind=keyword", "accuracy/kind=name"} <= set(by_name)
    further = suite.sum_up([(item, record.answer) for item, record in zip(suite.items(), records, strict=True)])
    assert further["ece"].value == pytest.approx(1 - is_last.mean())
    assert further["ece_plain"].value < further["ece"].value


def test_who_reads_no_decisions_is_refused():
    suite = decisions_suite(char_corpus(FILE), count=3, seed=0)
    with pytest.raises(ConfigError, match="reads no decisions"):
        suite.ask(FakeSubject(lambda texts: "x"), suite.items()[0], 0, 0.0)


def test_a_model_is_asked_and_calibrated(tmp_path):
    model = quicksilver.load(save_tiny_checkpoint(tmp_path / "tiny"), device="cpu")
    suite = decisions_suite(char_corpus(FILE), count=9, seed=1)
    seen = []
    fitted = calibrate(model, suite.items(), lambda: seen.append(1))
    assert len(seen) == 9
    assert fitted.nll <= fitted.nll_plain
    assert with_temperature(model.spec, 1.23456).decoding.decision_temperature == 1.2346
    [record] = run(suite, EngineSubject(name="tiny", model=model), suite.items()[:1])
    item = suite.items()[0]
    assert record.answer.nats["scores"] == pytest.approx(model.decide(item.before, item.after, item.labels).scores)
    assert record.answer.forward_s > 0
