"""`quicksilver calibrate`: the temperature of a corpus's validation packages, in a copy of the model."""

from pathlib import Path

import pytest

from quicksilver.checkpoints.folder import read_config
from quicksilver.cli import held_out
from tests.fake_documents import char_corpus

FILE = "def f(a, b):\n    if a < b and a != 3:\n        return None\n    return a + b, True\n"


def test_a_copy_gets_the_temperature(quicksilver, folder, tmp_path, monkeypatch):
    asked = []

    def open_split(tokens, split):
        asked.append((tokens, split))
        return char_corpus(FILE)

    monkeypatch.setattr(held_out, "open_split", open_split)
    out = tmp_path / "new"
    outcome = quicksilver(
        "calibrate", "--tokens", "corpus", "--model", folder, "--items", "6", "--out", str(out), "--json"
    )
    assert outcome.status == 0, outcome.err
    assert asked == [(Path("corpus"), "validation")]
    assert read_config(out)[1].decoding.decision_temperature == pytest.approx(outcome.json["temperature"], abs=1e-4)
    assert outcome.json["nll"] <= outcome.json["nll_plain"]
    assert read_config(Path(folder))[1].decoding.decision_temperature == 1.0
