"""Whole runs in processes of their own: killed, stopped, on two ranks; and one file learned by heart."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState

from quicksilver.diffusion.estimator import spread_uniforms
from quicksilver.diffusion.spec import DiffusionSpec, Objective
from quicksilver.models.attention import DenseAttention
from quicksilver.models.denoiser import Denoiser
from quicksilver.models.topology import Topology
from quicksilver.training import trainer as trainer_module
from quicksilver.training.batch import LossSums, MicroBatch, cross_entropy_sums
from quicksilver.training.data.in_place import InPlaceConfig, InPlaceNoise, in_place_batch
from quicksilver.training.data.noising import NoiseConfig, NoiseDraw
from quicksilver.training.data.views import ViewMix, Views
from quicksilver.training.data.windows import Piece
from quicksilver.training.lr_schedule import WarmupStableDecay
from quicksilver.training.trainer import Trainer
from tests.training_runs import no_nodes, tiny_recipe, tiny_spec, tiny_tokenizer, write_corpus

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
NUM_STEPS = 24


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(autouse=True)
def _fresh_accelerator(monkeypatch):
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setattr(trainer_module, "matmul_peak", lambda precision, device: 1e12)


def start(out: Path, corpus: Path, **environment: str) -> subprocess.Popen:
    """A run of NUM_STEPS steps in its own process, on one thread."""
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-m", "tests.training_runs", str(out), str(corpus), str(NUM_STEPS)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 0, output
    return output


def wait_for(path: Path, num_lines: int, process: subprocess.Popen) -> None:
    """Until a checkpoint is written and the log has this many lines."""
    deadline = time.monotonic() + 120
    log = path / "log.jsonl"
    while time.monotonic() < deadline and process.poll() is None:
        if log.is_file() and len(log.read_text().splitlines()) >= num_lines and any(path.glob("checkpoints/*.pt")):
            return
        time.sleep(0.005)
    pytest.fail(f"no checkpoint and {num_lines} steps in time: {process.communicate()[0]}")


def losses(path: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (path / "log.jsonl").read_text().splitlines()]


def final_weights(path: Path) -> dict[str, torch.Tensor]:
    state = torch.load(path / "checkpoints" / f"step-{NUM_STEPS:08d}.pt", weights_only=True)
    return state["denoiser"] | {f"average {name}": weight for name, weight in state["average"]["weights"].items()}


@pytest.fixture(scope="module")
def whole_run(corpus, tmp_path_factory):
    """The run that nothing disturbs."""
    path = tmp_path_factory.mktemp("whole")
    finish(start(path, corpus))
    return path


def assert_same_run(path: Path, whole: Path) -> None:
    assert losses(path) == losses(whole)
    expected = final_weights(whole)
    assert all(torch.equal(weight, expected[name]) for name, weight in final_weights(path).items())


def test_kill_9_and_resume_gives_the_same_losses_bit_for_bit(corpus, whole_run, tmp_path):
    process = start(tmp_path, corpus)
    wait_for(tmp_path, 7, process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    done = len(losses(tmp_path))
    newest = sorted((tmp_path / "checkpoints").glob("*.pt"))[-1]
    # Steps after the checkpoint are lost with the process and run again.
    assert done < NUM_STEPS
    assert newest.name < f"step-{NUM_STEPS:08d}.pt"
    finish(start(tmp_path, corpus))
    assert_same_run(tmp_path, whole_run)


def test_sigterm_writes_a_checkpoint_that_goes_on(corpus, whole_run, tmp_path):
    process = start(tmp_path, corpus)
    wait_for(tmp_path, 6, process)
    process.terminate()
    assert "is_finished=False" in finish(process)
    done = len(losses(tmp_path))
    assert done < NUM_STEPS
    assert (tmp_path / "checkpoints" / f"step-{done:08d}.pt").is_file()
    finish(start(tmp_path, corpus))
    assert_same_run(tmp_path, whole_run)


def test_two_ranks_give_the_losses_of_one(corpus, whole_run, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    ranks = [
        start(
            tmp_path,
            corpus,
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE="2",
            LOCAL_WORLD_SIZE="2",
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=port,
        )
        for rank in range(2)
    ]
    for process in ranks:
        finish(process)
    # Ranks add in another order. Muon orthogonalises in bf16, which makes more of a last bit with every step.
    assert losses(tmp_path)[:4] == pytest.approx(losses(whole_run)[:4], rel=1e-5)
    assert losses(tmp_path) == pytest.approx(losses(whole_run), rel=1e-3)
    one, two = (torch.load(p / "checkpoints" / "step-00000020.pt", weights_only=True) for p in (whole_run, tmp_path))
    assert two["tokens_seen"] == one["tokens_seen"]


SOURCE = '''def search(items, wanted):
    """Binary search."""
    low, high = 0, len(items)
    while low < high:
        middle = (low + high) // 2
        if items[middle] == wanted:
            return middle
        if items[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return None
'''


@dataclass(frozen=True)
class OneFile:
    """A task, and its own configuration, whose every row is one whole file on an in-place canvas."""

    tokens: tuple[int, ...]
    num_rows: int = 4
    bytes_per_token: None = None

    def build(self, spec: DiffusionSpec, schedule: WarmupStableDecay, seed: int) -> "OneFile":
        return self

    def micro_batches(self, step: int, rank: int, num_ranks: int) -> list[MicroBatch]:
        special = tiny_spec(Objective.MASK).special
        views = Views(ViewMix(), special, frozenset(), tiny_tokenizer().newline_id, list, str, (13, 14), no_nodes)
        noise = InPlaceNoise(views, special, InPlaceConfig(whole_rate=0.5, known_length_rate=1.0), NoiseConfig())
        rng = np.random.default_rng(step)
        uniforms = spread_uniforms(self.num_rows, 1, seed=0, step=step)
        piece = Piece(np.array(self.tokens), True)
        canvases = [[noise(piece, float(u), rng)] for u in uniforms[:, 0]]
        draw = NoiseDraw(0, step, torch.arange(self.num_rows), uniforms)
        return [in_place_batch(canvases, len(self.tokens) + 1, special.pad, draw)]

    def loss(self, denoiser: Denoiser, batch: MicroBatch) -> LossSums:
        return cross_entropy_sums(denoiser, batch)

    def validate(self, denoiser: Denoiser) -> dict[str, float]:
        return {}

    def export_extras(self, folder: Path) -> None:
        pass


def test_one_file_is_learned_by_heart(tmp_path):
    """Any of its lines masked, every token of the line is the most probable one."""
    tokens = tiny_tokenizer().encode(SOURCE)
    tiny = tiny_recipe(tmp_path)
    recipe = replace(
        tiny,
        model=replace(tiny.model, model_width=96, num_heads=3, head_width=32, ffn_width=192),
        task=OneFile(tuple(tokens)),
        schedule=WarmupStableDecay(num_steps=160, num_warmup_steps=5, num_decay_steps=90),
        checkpoint_steps=1000,
    )
    trainer = Trainer(recipe, tmp_path / "run")
    trainer.run()
    special = recipe.spec.special
    truth = torch.tensor([special.canvas, *tokens])
    positions = torch.arange(len(truth))[None]
    attention = DenseAttention(Topology.block_causal(torch.zeros_like(positions)))
    line_of = torch.cat([torch.tensor([-1, 0]), (truth[1:-1] == tiny_tokenizer().newline_id).cumsum(0)])
    for line in range(int(line_of.max()) + 1):
        is_masked = line_of == line
        canvas = torch.where(is_masked, special.mask, truth)[None]
        with torch.no_grad():
            predicted = trainer.denoiser.logits(trainer.denoiser(canvas, positions, attention))[0].argmax(dim=-1)
        assert predicted[is_masked].tolist() == truth[is_masked].tolist()
