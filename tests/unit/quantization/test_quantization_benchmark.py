"""The benchmark runs from end to end on the smallest model, and its canvases are what it says."""

import importlib
import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from quicksilver.evaluation.suites.filling import InfillItem
from tests.tiny_checkpoints import SOURCE, save_tiny_checkpoint, tiny_spec, tiny_tokenizer

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("quantization")


@pytest.mark.skipif("fbgemm" not in torch.backends.quantized.supported_engines, reason="this torch has no fbgemm")
@pytest.mark.slow
def test_figures_of_every_variant_named(benchmark, tmp_path: Path):
    pytest.importorskip("torchao")
    save_tiny_checkpoint(tmp_path / "model")
    out = tmp_path / "report.json"
    names = ("int8_dynamic", "int8_weight", "torch_int8_dynamic", "torchao_int8_dynamic", "bf16")
    only = [part for name in names for part in ("--only", name)]
    arguments = ["--model", str(tmp_path / "model"), "--items", "1", "--rounds", "1", "--out", str(out), *only]
    result = CliRunner().invoke(benchmark.app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    rows = {row["variant"]: row for row in json.loads(out.read_text())["variants"]}
    assert list(rows) == ["float32", *names]
    assert all(set(row["ms_per_forward"]) == {"1", "4", "8", "16", "32", "64"} for row in rows.values())
    float32 = rows["float32"]
    assert (float32["same_text"], float32["agreement"]["jaccard"], float32["agreement"]["mean_kl"]) == (1.0, 1.0, 0.0)
    assert rows["bf16"]["dtype"] == "bfloat16"
    assert all(row["agreement"]["mean_kl"] > 0 for name, row in rows.items() if name != "float32")


def test_canvases_open_shares_of_the_hole(benchmark):
    lines = SOURCE.splitlines(keepends=True)
    hole = InfillItem(item_id="a", prefix="".join(lines[:4]), middle=lines[4], suffix="".join(lines[5:]))
    spec, tokenizer = tiny_spec(), tiny_tokenizer()
    middle = tokenizer.encode(hole.middle)
    canvases = benchmark.open_canvases([hole], spec, tokenizer, 40, 0)
    assert [int(canvas.is_open.sum()) for canvas in canvases] == [
        max(round(share * len(middle)), 1) for share in (1.0, 0.5, 0.25)
    ]
    whole = canvases[0]
    first = int(whole.is_open.nonzero()[0])
    for canvas in canvases:
        assert len(canvas.token_ids) <= 40
        assert not bool((canvas.is_open & ~whole.is_open).any())
        inside = slice(first, first + len(middle))
        expected = torch.tensor(middle).masked_fill(canvas.is_open[inside], spec.special.mask)
        assert torch.equal(canvas.token_ids[inside], expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--only", "int2"), "no variant 'int2'"),
        (("--only", "fp8_dynamic"), "runs on cuda, not on cpu"),
        (("--rounds", "0"), "rounds must be at least 1"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(benchmark, tmp_path: Path, arguments: tuple[str, ...], message: str):
    save_tiny_checkpoint(tmp_path / "model")
    given = ["--model", str(tmp_path / "model"), "--items", "1", "--out", str(tmp_path / "bad.json"), *arguments]
    result = CliRunner().invoke(benchmark.app, given, catch_exceptions=False)
    assert result.exit_code == 2
    assert message in result.output
    assert len(result.output.splitlines()) == 1
