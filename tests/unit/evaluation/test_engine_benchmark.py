"""The engine's benchmark on the smallest models; its figures mean nothing here, but what it compares must be alike."""

import ctypes
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
from quicksilver.evaluation.suites.filling import InfillItem
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


class FakeLlama:
    """What the benchmark uses of llama-cpp-python: chooses 60, 50 and eos, and would go on."""

    class llama_logit_bias(ctypes.Structure):  # noqa: N801  # the binding's names
        _fields_ = (("token", ctypes.c_int32), ("bias", ctypes.c_float))

    def __init__(self) -> None:
        self.asked: dict = {}
        self.evaluated: list[list[int]] = []
        self.banned: list[int] = []
        self.ctx, self._next = object(), iter((60, 50, 1, 51))

    def Llama(self, **options):  # noqa: N802
        self.asked = options
        return self

    def n_vocab(self) -> int:
        return 357

    def reset(self) -> None:
        self.evaluated.clear()

    def eval(self, tokens) -> None:
        self.evaluated.append(list(tokens))

    def llama_sampler_init_logit_bias(self, num_vocab, num_biases, biases):
        self.banned = [each.token for each in biases if each.bias == -float("inf")]
        assert (num_vocab, num_biases) == (357, len(self.banned))

    def llama_sampler_sample(self, sampler, context, row) -> int:
        assert context is self.ctx
        return next(self._next)

    def __getattr__(self, name):
        return lambda *values: None


def test_llama_cpp_is_asked_for_the_same(script, sides: dict, folder: Path, monkeypatch: pytest.MonkeyPatch):
    fake = FakeLlama()
    monkeypatch.setitem(sys.modules, "llama_cpp", fake)
    rivals = importlib.import_module("engine_rivals")
    monkeypatch.setattr(rivals, "export_gguf", lambda source, file, dtype: file.write_text(f"{source} {dtype}"))
    side = sides["twin"]
    filled = rivals.LlamaTwin(side.model, folder / "twin", "q8_0", [side.model.spec.special.eos])(HOLES[0])
    prompt = side.job(HOLES[0]).task.prompt_ids
    assert fake.evaluated == [list(prompt), [60], [50]]
    assert fake.banned == [0, *range(2, 48)]
    threads = torch.get_num_threads()
    assert [fake.asked[name] for name in ("n_ctx", "n_threads", "n_threads_batch")] == [0, threads, threads]
    assert (filled.text, filled.num_tokens, filled.nfe) == (side.model.tokenizer.decode([60, 50]), 2, 3)
    assert 0 < filled.first_seconds < filled.seconds
    ended = rivals.LlamaTwin(side.model, folder / "twin", "q8_0", [side.model.spec.special.eos, 50])
    fake._next = iter([60, 50])
    assert ended(HOLES[0]).num_tokens == 1


@pytest.mark.slow
def test_llama_cpp_writes_what_the_engine_writes(script, sides: dict, folder: Path):
    pytest.importorskip("llama_cpp", reason="needs the llama extra")
    side = sides["twin"]
    loop = importlib.import_module("engine_rivals").LlamaTwin(
        side.model, folder / "twin", "f32", [side.model.spec.special.eos]
    )
    for item in HOLES:
        ours, found = side.fill(item), loop(item)
        assert (found.text, found.num_tokens, found.nfe) == (ours.text, ours.num_tokens, ours.nfe)


def test_what_is_not_installed_is_left_out_with_its_remedy(script, sides: dict, folder: Path, monkeypatch):
    rivals = importlib.import_module("engine_rivals")
    monkeypatch.setattr(rivals.importlib.util, "find_spec", lambda name: None)
    loops, left_out = rivals.rivals(sides["twin"].model, folder / "twin", "cpu", torch.float32, is_one_line=False)
    assert loops == {}
    assert [each.partition(":")[0] for each in left_out] == ["transformers", "llama.cpp"]
    assert all("pip install" in each for each in left_out)


def test_the_first_forward_is_told_from_later_ones(script):
    speed = importlib.import_module("speed")
    rounds = [[speed.Filled("", 2, 3, 0.5, first) for first in (0.1, 0.3)] for _ in range(3)]
    assert speed.split(rounds) == (pytest.approx(200), pytest.approx(150))
    assert speed.split([[speed.Filled("", 2, 3, 0.5)]]) == (None, None)
    assert speed.split([[speed.Filled("", 0, 1, 0.5, 0.5)]]) == (None, None)


@pytest.mark.slow
def test_rivals_write_what_the_engine_writes(script: types.ModuleType, folder: Path):
    pytest.importorskip("transformers")
    out = folder / "speed.json"
    code, _ = run(script, folder, "--only", "speed", "--out", out)
    assert code == 0
    loops = {row["loop"]: row for row in json.loads(out.read_text())["speed"]["loops"]}
    rivals = importlib.import_module("engine_rivals")
    names = {"twin", rivals.CACHED, rivals.GENERATE}
    assert {"diffusion, in place", "diffusion, psm", *names} <= set(loops)
    assert loops["twin"]["times_twin"] == 1.0
    assert 0 < loops["twin"]["ms_per_later_forward"] < loops["twin"]["ms_per_item"]
    assert len({loops[name]["nfe_per_item"] for name in names}) == 1


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is read from Linux's /proc")
def test_memory_is_measured_in_a_process_of_its_own(script: types.ModuleType, folder: Path):
    found = importlib.import_module("engine_memory").measure(str(folder / "model"), "float32", 1)
    assert found["interpreter_mb"] > 50
    assert found["added_mb"] > found["weights_mb"] + found["pool_mb"]
    assert found["ratio"] > 1
