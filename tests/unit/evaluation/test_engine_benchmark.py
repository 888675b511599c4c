"""The engine's benchmark on the smallest models; its figures mean nothing here, but what it compares must be alike."""

import importlib
import json
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from quicksilver.diffusion.spec import Objective
from quicksilver.evaluation.suites import InfillItem
from tests.tiny_checkpoints import save_tiny_checkpoint

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
HOLES = [
    InfillItem(item_id="1", prefix="def mean(xs):\n", middle="    total = 0\n", suffix="    return total\n"),
    InfillItem(item_id="2", prefix="def median(xs):\n", middle="    xs = sorted(xs)\n", suffix="    return xs\n"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engine-benchmark")
    save_tiny_checkpoint(folder / "model")
    save_tiny_checkpoint(folder / "twin", Objective.AUTOREGRESSIVE)
    return folder


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module("engine")
    monkeypatch.setattr(module, "LEVELS", (1, 3))
    monkeypatch.setattr(module, "BATCHES", (1, 2))
    return module


@pytest.fixture
def sides(script: types.ModuleType, folder: Path) -> dict:
    common = importlib.import_module("common")
    subjects = [
        common.Subject(
            model=str(folder / name),
            suite="humaneval-single-line",
            tokens=None,
            items=2,
            context=128,
            seed=0,
            device="cpu",
        )
        for name in ("model", "twin")
    ]
    return script.load_sides(*subjects, script.DecodingOptions(seed=0), torch.float32, None)


def run(script: types.ModuleType, folder: Path, *arguments: object) -> tuple[int, str]:
    models = ("--model", folder / "model", "--twin", folder / "twin", "--items", 2, "--rounds", 1)
    result = CliRunner().invoke(script.app, [str(each) for each in (*models, *arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_one_command_measures_parts_and_draws(script: types.ModuleType, folder: Path):
    out, picture = folder / "engine.json", folder / "engine.svg"
    parts = [word for part in ("overhead", "load", "first-token", "costs") for word in ("--only", part)]
    code, text = run(script, folder, *parts, "--out", out, "--plot", picture)
    assert code == 0
    report = json.loads(out.read_text())
    assert {"overhead", "load", "first_token", "costs", "environment", "dtype", "policy"} <= set(report)
    assert {"speed", "memory"}.isdisjoint(report)
    assert [each["batch"] for each in report["overhead"]["twin"]] == [1, 2]
    assert [each["level"] for each in report["load"]["diffusion, psm"]] == [1, 3]
    assert report["first_token"]["twin"]["prompt_tokens"] == 112
    assert "engine / bare" in text
    assert "p99 ms" in text
    assert "<svg" in picture.read_text()


def test_replaying_a_step_changes_nothing(script: types.ModuleType, sides: dict):
    for name in ("diffusion, psm", "diffusion, in place", "twin"):
        side = sides[name]
        alone = [side.fill(item).text for item in HOLES]
        recorder = script.Recorder(side.engine)
        tickets = [side.engine.submit(side.job(item)) for item in HOLES]
        rows = []
        with recorder.attached():
            while not all(ticket.is_ended for ticket in tickets):
                side.engine.step()
                recorder.replay()
                rows.append(recorder.num_rows)
        texts = [side.model.tokenizer.decode(ticket.result.token_ids) for ticket in tickets]
        assert texts == alone
        assert min(rows) >= 1
        assert "logits" not in vars(side.denoiser)


def test_a_replay_is_the_same_rows(script: types.ModuleType, sides: dict, monkeypatch):
    side = sides["diffusion, psm"]
    seen: list[tuple[int, ...]] = []
    network = side.engine.runner.network

    def watched(*inputs: object) -> torch.Tensor:
        hidden = network(*inputs)
        seen.append(tuple(hidden.flatten().tolist()))
        return hidden

    monkeypatch.setattr(side.engine.runner, "network", watched)
    recorder = script.Recorder(side.engine)
    ticket = side.engine.submit(side.job(HOLES[0]))
    with recorder.attached():
        side.engine.step()
        recorder.replay()
    side.engine.abort(ticket)
    assert len(seen) == 2
    assert seen[0] == seen[1]


def test_no_request_finds_its_prompt_cached(script: types.ModuleType, sides: dict):
    side = sides["twin"]
    item = replace(HOLES[0], prefix="x = 1\n" * 40)
    tickets = []
    for _ in range(2):
        tickets.append(side.engine.submit(side.job(item)))
        while not tickets[-1].is_ended:
            side.engine.step()
    assert [ticket.usage.num_cached for ticket in tickets] == [0, 0]


def test_ratios_are_taken_within_rounds_and_of_tokens_and_holes(script: types.ModuleType):
    def filled(num_tokens: int, seconds: float) -> list:
        return [script.Filled(HOLES[0].middle, num_tokens, 2, seconds), script.Filled("wrong", 0, 2, 0.0)]

    loops = {"twin": [filled(4, 1.0), filled(4, 2.0)], "fast": [filled(8, 0.5), filled(8, 1.0)]}
    twin, fast = script.sum_up(loops, HOLES)
    assert (twin.times_twin, twin.holes_times_twin, twin.exact_match.value) == (1.0, 1.0, 0.5)
    assert (fast.times_twin, fast.holes_times_twin, fast.tpf) == (4.0, 2.0, 2.0)
    assert fast.tokens_per_s == pytest.approx((16 + 8) / 2)


def test_models_in_each_others_place_are_refused(script: types.ModuleType, folder: Path):
    swapped = ("--model", folder / "twin", "--twin", folder / "model")
    code, text = run(script, folder, *swapped, "--out", folder / "bad.json")
    assert code == 2
    assert "autoregressive" in text


def test_llama_cpp_is_asked_for_the_same(script: types.ModuleType, sides: dict, monkeypatch: pytest.MonkeyPatch):
    asked: dict = {}

    class Llama:
        def __init__(self, **options) -> None:
            asked.update(options)

        def reset(self) -> None: ...

        def generate(self, prompt, logits_processor, **options):
            asked["prompt"] = prompt
            scores = torch.zeros(400).numpy()
            scores[2], scores[60] = 1.0, 0.5  # 2 is the mask, which is never written
            token = int(logits_processor(None, scores).argmax())
            yield from (token, 50, 1, 51)

    monkeypatch.setitem(sys.modules, "llama_cpp", types.SimpleNamespace(Llama=Llama))
    rivals = importlib.import_module("engine_rivals")
    side = sides["twin"]
    filled = rivals.LlamaTwin(side.model, Path("twin.gguf"))(HOLES[0])
    assert tuple(asked["prompt"]) == side.job(HOLES[0]).task.prompt_ids
    assert asked["n_ctx"] == 128
    assert (filled.text, filled.num_tokens, filled.nfe) == (side.model.tokenizer.decode([60, 50]), 2, 3)


@pytest.mark.slow
def test_rivals_write_what_the_engine_writes(script: types.ModuleType, folder: Path):
    pytest.importorskip("transformers")
    out = folder / "speed.json"
    code, _ = run(script, folder, "--only", "speed", "--out", out)
    assert code == 0
    loops = {row["loop"]: row for row in json.loads(out.read_text())["speed"]["loops"]}
    assert set(loops) == {"diffusion, in place", "diffusion, psm", "twin", script.CACHED, script.GENERATE}
    assert loops["twin"]["times_twin"] == 1.0
    assert len({loops[name]["nfe_per_item"] for name in ("twin", script.CACHED, script.GENERATE)}) == 1


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is read from Linux's /proc")
def test_memory_is_measured_in_a_process_of_its_own(script: types.ModuleType, folder: Path):
    found = importlib.import_module("engine_memory").measure(str(folder / "model"), "float32", 1)
    assert found["interpreter_mb"] > 50
    assert found["added_mb"] > found["weights_mb"] + found["pool_mb"]
    assert found["ratio"] > 1
