"""`quicksilver infill`: what goes to stdout, what to stderr, and which input is refused how."""

import pytest

TEMPLATE = "def mean(xs):\r\n\treturn <FILL>\n# é <FILL>"


@pytest.fixture
def infill(quicksilver, folder):
    def run(*arguments: str, stdin: str | bytes = TEMPLATE):
        return quicksilver("infill", "-", "--model", folder, *arguments, stdin=stdin)

    return run


def test_stdout_is_the_filled_file_and_nothing_else(infill):
    outcome = infill("--hole-length", "2")
    head, middle = TEMPLATE.split("<FILL>")[:2]
    assert outcome.status == 0
    assert outcome.out.startswith(head)
    assert middle in outcome.out
    assert "<FILL>" not in outcome.out
    assert outcome.err == ""


def test_a_file_is_read_and_written(quicksilver, folder, tmp_path):
    source, target = tmp_path / "in.py", tmp_path / "out.py"
    source.write_bytes(b"a = <FILL>\r\n")
    outcome = quicksilver("infill", str(source), "--model", folder, "--seed", "1", "--output", str(target))
    assert (outcome.status, outcome.out) == (0, "")
    assert target.read_bytes().startswith(b"a = ")
    assert target.read_bytes().endswith(b"\r\n")
    assert source.read_bytes() == b"a = <FILL>\r\n"
    printed = quicksilver("infill", str(source), "--model", folder, "--seed", "1")
    assert printed.out.encode() == target.read_bytes()


def test_another_mark(infill):
    outcome = infill("--mark", "???", "--hole-length", "1", stdin="a ??? <FILL>")
    assert outcome.status == 0
    assert outcome.out.startswith("a ")
    assert outcome.out.endswith(" <FILL>")


def test_verbose_says_what_it_took_on_stderr(infill):
    outcome = infill("--verbose", "--seed", "5")
    for word in ("NFE", "TPF", "tokens/s", "seed 5"):
        assert word in outcome.err
        assert word not in outcome.out


def test_json_has_this_shape(infill):
    report = infill("--json", "--seed", "5", "--hole-length", "3").json
    types = {name: type(value) for name, value in report.items()}
    assert types == {
        "model": str,
        "text": str,
        "holes": list,
        "num_tokens": int,
        "nfe": int,
        "tpf": float,
        "tokens_per_s": float,
        "seconds": float,
        "num_edits": int,
        "num_stale_forwards": int,
        "num_stale_rows": int,
        "finish_reason": str,
        "seed": int,
    }
    assert (report["model"], report["seed"], report["finish_reason"]) == ("tiny", 5, "filled")
    assert len(report["holes"]) == 2
    for hole in report["holes"]:
        assert set(hole) == {"text", "tokens"}
        assert len(hole["tokens"]) == 3
        for token in hole["tokens"]:
            assert {name: type(value) for name, value in token.items()} == {
                "text": str,
                "confidence": float,
                "step": int,
            }
            assert 0 < token["confidence"] <= 1
            assert 1 <= token["step"] <= report["nfe"]
    assert report["num_tokens"] == 6
    assert report["tpf"] == pytest.approx(6 / report["nfe"], abs=1e-4)
    before, between, after = TEMPLATE.split("<FILL>")
    assert report["text"] == before + report["holes"][0]["text"] + between + report["holes"][1]["text"] + after


def test_a_seed_repeats_exactly(infill):
    options = ("--temperature", "1.5", "--json")
    reports = [infill(*options, "--seed", seed).json for seed in ("7", "7", "8")]
    for report in reports:
        del report["seconds"], report["tokens_per_s"]
    assert reports[0] == reports[1]
    assert reports[0]["holes"] != reports[2]["holes"]


def test_watch_without_a_terminal_prints_plain_lines(infill):
    outcome = infill("--watch", "--hole-length", "2", "--steps", "2", "--seed", "0")
    assert outcome.status == 0
    assert outcome.err.splitlines() == [
        "forward 1: 2 tokens written, 2 masks left",
        "forward 2: 4 tokens written, 0 masks left",
    ]
    assert outcome.out == infill("--hole-length", "2", "--steps", "2", "--seed", "0").out


def test_layouts_and_policies_choose(infill):
    assert infill("--layout", "psm", "--block-length", "8").status == 0
    by_count = infill("--policy", "fixed_steps", "--steps", "2", "--hole-length", "4", "--json").json
    assert by_count["nfe"] == 2
    assert infill("--threshold", "0", "--hole-length", "4", "--json").json["nfe"] == 1


@pytest.mark.parametrize(
    ("stdin", "arguments", "words"),
    [
        ("no mark", (), ("no hole", "<FILL>")),
        (b"\xff <FILL>", (), ("not UTF-8", "byte 0")),
        (TEMPLATE, ("--policy", "fastest"), ("fastest", "confidence_threshold")),
        (TEMPLATE, ("--layout", "middle"), ("middle", "psm")),
        (TEMPLATE, ("--steps", "2", "--threshold", "0.5"), ("steps", "threshold")),
        (TEMPLATE, ("--hole-length", "2", "--max-hole-length", "3"), ("hole_length", "max_hole_length")),
        (TEMPLATE, ("--block-length", "4"), ("block_length", "in_place")),
        (TEMPLATE, ("--hole-length", "100"), ("100", "128")),
        (TEMPLATE, ("--cache", "fast"), ("'fast'", "dual", "vicinity")),
        (TEMPLATE, ("--cache", "dual", "--layout", "psm"), ("cache dual", "psm", "in_place")),
        (TEMPLATE, ("--refresh-every", "4"), ("refresh_every", "4", "cache exact")),
        (TEMPLATE, ("--temperature", "-1"), ("temperature", "-1")),
        (TEMPLATE, ("--seed", "-1"), ("seed", "-1")),
        (TEMPLATE, ("--seed", "one"), ("--seed", "integer")),
        (TEMPLATE, ("--stepps", "1"), ("--stepps",)),
        (TEMPLATE, ("--model", "no/such/model"), ("no/such/model", "no such folder")),
        (TEMPLATE, ("--output", "/no/such/folder/out.py"), ("/no/such/folder/out.py",)),
    ],
)
def test_bad_input_is_one_line_and_status_2(infill, stdin, arguments, words):
    outcome = infill(*arguments, stdin=stdin)
    assert outcome.status == 2
    assert outcome.out == ""
    assert outcome.err.startswith("quicksilver: error: ")
    assert outcome.err.count("\n") == 1
    assert all(word in outcome.err for word in words)


def test_a_cache_is_counted(infill):
    exact, cached = (
        infill("--json", "--seed", "5", "--hole-length", "4", "--threshold", "2", *more).json
        for more in ((), ("--cache", "dual", "--refresh-every", "4"))
    )
    # Of 8 forwards all but the first and the fifth.
    assert (exact["nfe"], exact["num_stale_forwards"], exact["num_stale_rows"]) == (8, 0, 0)
    assert (cached["nfe"], cached["num_stale_forwards"]) == (8, 6)
    assert cached["num_stale_rows"] > 6


def test_missing_files_are_named(quicksilver, folder, tmp_path):
    outcome = quicksilver("infill", str(tmp_path / "none.py"), "--model", folder)
    assert (outcome.status, outcome.err.count("\n")) == (2, 1)
    assert "none.py" in outcome.err
    (tmp_path / "half").mkdir()
    outcome = quicksilver("infill", "-", "--model", str(tmp_path / "half"), stdin=TEMPLATE)
    assert (outcome.status, outcome.err.count("\n")) == (2, 1)
    assert "config.json" in outcome.err


def test_an_autoregressive_model_fills_but_takes_no_policy(quicksilver, ar_folder):
    outcome = quicksilver("infill", "-", "--model", ar_folder, "--max-hole-length", "3", stdin=TEMPLATE)
    assert outcome.status == 0
    outcome = quicksilver("infill", "-", "--model", ar_folder, "--policy", "remdm", stdin=TEMPLATE)
    assert outcome.status == 2
    assert "policy" in outcome.err


def test_a_check_repairs_and_says_so(infill):
    options = ("--hole-length", "2", "--seed", "5", "--json")
    passed = infill(*options, "--check-command", "true")
    assert passed.status == 0
    assert passed.json["check"] == {
        "name": "command",
        "parts": ["true"],
        "passed": True,
        "repairs": 0,
        "drafts": 0,
        "problems": [],
    }
    failed = infill(*options, "--check-command", "sh -c 'echo worse; exit 3'", "--repairs", "1")
    assert failed.status == 1
    assert failed.json["text"] == passed.json["text"]
    assert failed.json["check"]["problems"] == ["status 3: worse"]
    assert failed.json["check"]["repairs"] == 1
    assert failed.json["nfe"] > passed.json["nfe"]
    assert "does not pass the check command after 1 repairs" in failed.err


def test_python_is_checked_by_name(infill):
    outcome = infill("--check", "python", "--repairs", "0", "--seed", "1", "--json", stdin="x = (<FILL>\n")
    assert outcome.json["check"]["parts"][:2] == ["parse", "compile"]
    assert outcome.status == (0 if outcome.json["check"]["passed"] else 1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--check", "python", "--check-command", "true"), "contradict"),
        (("--repairs", "2"), "--repairs needs"),
        (("--check", "python", "--watch"), "--watch"),
        (("--check", "ruby"), "no check 'ruby'"),
        (("--check-command", "a 'b"), "cannot be read"),
        (("--check-command", "no-such-tool {}"), "cannot be run"),
    ],
)
def test_checks_that_cannot_be(infill, arguments, said):
    outcome = infill(*arguments)
    assert outcome.status == (1 if "no-such-tool {}" in arguments else 2)
    assert said in outcome.err
