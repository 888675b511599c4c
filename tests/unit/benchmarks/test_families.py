"""The benchmark of published layouts at a tiny size, without anybody's clones."""

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def families(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("families")


def test_the_engine_alone(families: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    arguments = ["--size", "tiny", "--length", "40", "--answer", "16", "--block", "8", "--rounds", "0"]
    done = CliRunner().invoke(families.app, [*arguments, "--out", str(out)])
    assert done.exit_code == 0, done.output
    report = json.loads(out.read_text())
    found = {(loop["family"], loop["loop"]): loop for loop in report["loops"]}
    caches = ("exact", "prefix", "dual", "vicinity")
    wanted = [("llada", cache) for cache in caches] + [("dream", cache) for cache in caches] + [("sdar", "exact")]
    assert list(found) == [(family, f"engine, {cache}") for family, cache in wanted]
    assert [len(report["left_out"]), report["left_out"][0].split(":")[0]] == [3, "llada"]
    # Four tokens a step; a short prompt is read by the first one.
    for family, cache in wanted:
        loop = found[family, f"engine, {cache}"]
        assert loop["num_forwards"] == 4
        assert (loop["num_stale_rows"] > 0) == (cache != "exact")
        assert loop["times_same_rule"] is loop["same_tokens"] is None


def test_a_loop_is_compared_with_that_of_its_rule(families: ModuleType) -> None:
    def written(tokens: list[int], seconds: float) -> object:
        return families.Written(token_ids=tokens, steps=[1, 1, 2, 2], num_forwards=2, seconds=seconds)

    runs = {
        "LLaDA's loop": [written([5, 6, 7, 8], 90.0), written([5, 6, 7, 8], 4.0)],
        "Fast-dLLM's dual": [written([5, 6, 7, 8], 90.0), written([5, 6, 7, 8], 2.0)],
        "engine, dual": [written([5, 6, 7, 9], 90.0), written([5, 6, 7, 9], 1.0)],
    }
    found = families.figures_of(families.FAMILIES["llada"], "llada", 8, 4, "engine, dual", runs)
    assert (found.times_own_loop, found.times_same_rule, found.tokens_per_second) == (4.0, 2.0, 4.0)
    assert (found.same_tokens, found.first_difference) == (0.75, 2)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--family", "bert"], "bert"),
        (["--cache", "none"], "none"),
        (["--length", "32", "--answer", "32"], "32"),
        (["--block", "6", "--answer", "12", "--length", "24"], "block"),
    ],
)
def test_bad_usage_names_what_is_wrong(families: ModuleType, tmp_path: Path, arguments: list[str], named: str) -> None:
    done = CliRunner().invoke(families.app, ["--out", str(tmp_path / "report.json"), *arguments])
    assert done.exit_code != 0
    assert named in done.output
