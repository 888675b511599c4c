"""`quicksilver tune`: a report, a copy of the model with other defaults, and errors that name the line."""

import json
from pathlib import Path

import pytest

from quicksilver.checkpoints.folder import read_config
from quicksilver.checkpoints.loading import load_folder

HOLE = {"prefix": "def mean(xs):\n", "suffix": "    return total\n", "answer": "    total = 0\n"}
NARROW = ("--policy", "confidence_threshold", "--threshold", "0.05")


@pytest.fixture
def tasks(tmp_path) -> str:
    (tmp_path / "tasks.jsonl").write_text(json.dumps(HOLE) + "\n" + json.dumps({"prompt": "def median"}) + "\n")
    return str(tmp_path / "tasks.jsonl")


def test_the_copy_has_the_chosen_defaults_and_the_original_has_not(quicksilver, folder, tasks, tmp_path):
    before = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    out = tmp_path / "new" / "tuned"
    outcome = quicksilver(
        "tune", "--task", tasks, "--model", folder, "--out", str(out), *NARROW, "--tolerance", "1", "--json"
    )
    assert outcome.status == 0
    report = outcome.json
    assert report == json.loads((out / "tuning.json").read_text())
    assert (report["num_tasks"], report["num_answers"], report["batch"]) == (2, 1, 1)
    assert [(each["threshold"], each["block_length"]) for each in report["settings"]] == [
        (1.01, 4),
        (0.05, 4),
        (0.05, 8),
    ]
    assert report["chosen"]["threshold"] == 0.05  # everything is good enough, and 1.01 writes token by token
    _, spec = load_folder(out)
    assert (spec.decoding.policy, spec.decoding.threshold) == ("confidence_threshold", 0.05)
    assert spec.block_length == report["chosen"]["block_length"]
    assert "confidence_threshold" in (out / "tuning.md").read_text()
    assert {path.name: path.read_bytes() for path in Path(folder).iterdir()} == before
    assert (out / "tokenizer.json").read_bytes() == before["tokenizer.json"]
    assert read_config(Path(folder))[1].decoding.threshold == 0.5
    again = quicksilver("infill", "-", "--model", str(out), "--json", "--seed", "1", stdin="a <FILL> b").json
    assert again["nfe"] <= 2


def test_the_table_goes_to_stdout_and_the_picture_to_a_file(quicksilver, folder, tasks, tmp_path):
    pytest.importorskip("matplotlib")
    outcome = quicksilver("tune", "--task", tasks, "--model", folder, *NARROW, "--plot", str(tmp_path / "a.svg"))
    assert outcome.status == 0
    assert outcome.out.splitlines()[0].startswith("|")
    assert len(outcome.out.splitlines()) == 2 + 3
    assert "<svg" in (tmp_path / "a.svg").read_text()


@pytest.mark.parametrize(
    ("text", "arguments", "words"),
    [
        ('{"prompt": "a"}\n{"prompt": "a", "suffix": "b"}\n', (), ("line 2", "suffix")),
        ('{"prompt": "a"}\nnonsense\n', (), ("line 2", "JSON")),
        ("", (), ("no task",)),
        ('{"prompt": "a"}\n', ("--policy", "remdm"), ("remdm",)),
        ('{"prompt": "a"}\n', ("--block-length", "5"), ("5",)),
        ('{"prompt": "a"}\n', ("--tolerance", "2"), ("tolerance", "2")),
        ('{"prompt": "a"}\n', ("--layout", "middle"), ("middle",)),
        ('{"prompt": "a"}\n', ("--out", "{full}"), ("not an empty folder",)),
    ],
)
def test_bad_input_is_one_line_and_status_2(quicksilver, folder, tmp_path, text, arguments, words):
    (tmp_path / "bad.jsonl").write_text(text)
    given = [argument.replace("{full}", str(tmp_path)) for argument in arguments]
    outcome = quicksilver("tune", "--task", str(tmp_path / "bad.jsonl"), "--model", folder, *given)
    assert outcome.status == 2
    assert outcome.out == ""
    error = outcome.err.strip().splitlines()[-1]
    assert error.startswith("quicksilver: error: ")
    assert all(word in error for word in words)


def test_an_autoregressive_model_has_nothing_to_tune(quicksilver, ar_folder, tasks):
    outcome = quicksilver("tune", "--task", tasks, "--model", ar_folder)
    assert (outcome.status, outcome.out) == (2, "")
    assert "objective ar" in outcome.err


def test_where_nothing_is_right_the_table_is_shown_and_nothing_chosen(quicksilver, folder, tmp_path):
    (tmp_path / "hard.jsonl").write_text(json.dumps(HOLE) + "\n")
    out = tmp_path / "tuned"
    task = ("--task", str(tmp_path / "hard.jsonl"), "--model", folder, "--policy", "entropy_bound")
    outcome = quicksilver("tune", *task, "--out", str(out), "--json")
    assert outcome.status == 2
    assert outcome.json["chosen"] is None
    assert len(outcome.json["settings"]) == 2
    assert "no setting gave the answer" in outcome.err
    assert not out.exists()
