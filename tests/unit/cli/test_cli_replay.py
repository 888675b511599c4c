"""`quicksilver replay`, and the traces that infill and generate write."""

import json

import pytest

TEMPLATE = "def mean(xs):\n\treturn <FILL>\n# <FILL>"


@pytest.fixture
def trace(quicksilver, folder, tmp_path) -> str:
    path = str(tmp_path / "trace.jsonl")
    options = ("--seed", "5", "--temperature", "1.2", "--steps", "3", "--hole-length", "4")
    outcome = quicksilver("infill", "-", "--model", folder, *options, "--trace", path, stdin=TEMPLATE)
    assert outcome.status == 0
    without = quicksilver("infill", "-", "--model", folder, *options, stdin=TEMPLATE)
    assert outcome.out == without.out
    return path


def lines_of(path: str) -> list[dict]:
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def rewrite(path: str, lines: list[dict]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def test_a_trace_names_model_request_and_decisions(trace, folder):
    head, run = lines_of(trace)
    assert (head["format"], head["version"], head["model"]) == ("quicksilver-trace", 1, folder)
    assert run["request"]["params"]["policy"] == {"kind": "FixedSteps", "steps": 3}
    assert run["request"]["params"]["seed"] == 5
    assert len(run["result"]["trace"]) == 8
    assert run["result"]["nfe"] == 3


def test_a_replay_that_agrees(quicksilver, trace):
    outcome = quicksilver("replay", trace)
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out.startswith("all 3 forwards agree (requests: 1), confidences within ")
    report = quicksilver("replay", trace, "--json").json
    assert report["confidence_error"] < 1e-5
    del report["confidence_error"]
    assert report == {"num_requests": 1, "num_forwards_that_agree": 3, "difference": None}


def test_a_replay_that_differs(quicksilver, trace):
    head, run = lines_of(trace)
    entries = run["result"]["trace"]
    at = next(at for at, entry in enumerate(entries) if entry[0] == 2)
    right = entries[at][3]
    entries[at][3] = wrong = right + 1
    rewrite(trace, [head, run])
    outcome = quicksilver("replay", trace)
    assert outcome.status == 1
    assert outcome.err == ""
    assert outcome.out.startswith(f"request 1, forward 2: the trace has token {wrong} at position {entries[at][2]} ")
    assert f"the replay token {right} at" in outcome.out
    assert outcome.out.count("\n") == 1
    outcome = quicksilver("replay", trace, "--json")
    assert outcome.status == 1
    assert outcome.json["num_forwards_that_agree"] == 1
    assert (outcome.json["difference"]["request"], outcome.json["difference"]["forward"]) == (1, 2)


def test_confidences_are_compared_with_a_tolerance(quicksilver, trace):
    head, run = lines_of(trace)
    run["result"]["trace"][0][4] += 0.01
    rewrite(trace, [head, run])
    assert quicksilver("replay", trace).status == 1
    assert quicksilver("replay", trace, "--tolerance", "0.02").status == 0


def test_generation_and_holes_one_after_the_other(quicksilver, folder, ar_folder, tmp_path):
    path = str(tmp_path / "trace.jsonl")
    for command in (
        ("generate", "def f", "--model", folder, "--max-tokens", "12"),
        ("generate", "def f", "--model", ar_folder, "--max-tokens", "5", "--temperature", "1"),
        ("infill", "-", "--model", folder, "--layout", "psm"),
    ):
        assert quicksilver(*command, "--trace", path, stdin=TEMPLATE).status == 0
        num_runs = len(lines_of(path)) - 1
        assert num_runs == (2 if "psm" in command else 1)
        outcome = quicksilver("replay", path)
        assert outcome.status == 0
        assert f"agree (requests: {num_runs})" in outcome.out


def test_stop_strings_are_built_again(folder, tmp_path, quicksilver):
    # The command line has no stop strings; the Python API does.
    from quicksilver.api import DecodingOptions, GenerateRequest, load
    from quicksilver.cli.running import traced

    model, path = load(folder), tmp_path / "trace.jsonl"
    options = {"seed": 1, "temperature": 1.5}
    text = model.generate("def f", max_tokens=24, **options).text
    stop = (text[len(text) // 2 :][:1],)
    request = GenerateRequest(prompt="def f", max_tokens=24, options=DecodingOptions(**options, stop=stop))
    with traced(model, folder, path):
        model.run(request)
    assert lines_of(str(path))[1]["request"]["stop"] == list(stop)
    assert quicksilver("replay", str(path)).status == 0


@pytest.mark.parametrize(
    ("change", "arguments", "words"),
    [
        (lambda lines: lines[0].update(version=9), (), ("line 1", "version 9", "version 1")),
        (lambda lines: lines[0].update(model="no/such/model"), (), ("no/such/model", "no such folder")),
        (lambda lines: lines[0].update(fingerprint="00"), (), ("model 00", "same number format")),
        (lambda lines: lines[1]["request"]["params"].update(top_q=1), (), ("line 2", "top_q")),
        (lambda lines: None, ("--model", "no/such/model"), ("no/such/model",)),
        (lambda lines: None, ("--tolerance", "-1"), ("tolerance", "-1")),
        (lambda lines: None, ("--device", "tpu"), ("tpu",)),
    ],
)
def test_bad_input_is_one_line_and_status_2(quicksilver, trace, change, arguments, words):
    lines = lines_of(trace)
    change(lines)
    rewrite(trace, lines)
    outcome = quicksilver("replay", trace, *arguments)
    assert (outcome.status, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert outcome.err.startswith("quicksilver: error: ")
    assert all(word in outcome.err for word in words)


def test_another_model_is_refused(quicksilver, trace, ar_folder):
    outcome = quicksilver("replay", trace, "--model", ar_folder)
    assert outcome.status == 2
    assert "same weights" in outcome.err


def test_files_that_cannot_be_read_or_written(quicksilver, folder, tmp_path):
    outcome = quicksilver("replay", str(tmp_path / "none"))
    assert (outcome.status, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    outcome = quicksilver("infill", "-", "--model", folder, "--trace", "/no/such/folder/t.jsonl", stdin=TEMPLATE)
    assert (outcome.status, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert "/no/such/folder/t.jsonl" in outcome.err
