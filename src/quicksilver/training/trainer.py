"""The training loop, for every task and objective.

A step's batch is a pure function of (seed, step, global row), so a run killed at any moment continues from its last
checkpoint with the same losses bit for bit (same machine, same number of threads), and its noise does not depend on
the number of ranks.
"""

import signal
import threading
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from quicksilver.checkpoints.folder import model_hash, save_folder
from quicksilver.checkpoints.loading import load_folder
from quicksilver.diffusion.likelihood import bits_per_byte
from quicksilver.errors import TrainingError
from quicksilver.models.denoiser import Denoiser
from quicksilver.training.adaptation import adopt_weights
from quicksilver.training.batch import LossSums, MicroBatch
from quicksilver.training.ema import WeightAverage
from quicksilver.training.hardware import matmul_peak, resolve_precision
from quicksilver.training.lora import add_adapters
from quicksilver.training.optimizers import build_optimizers
from quicksilver.training.progress import Progress
from quicksilver.training.recipe import Precision, Recipe, TrainingTask
from quicksilver.training.run_folder import RunFolder

_MODEL_FLOPS = 6
"""Floating-point operations per weight and position: 2 forward, 4 backward (Kaplan et al. 2020, arXiv:2001.08361)."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended."""

    last_step: int
    """Steps done in all, earlier sessions included."""
    is_finished: bool
    """False if it stopped early, on request or at a time limit; it can be resumed."""
    folder: Path
    """The exported checkpoint if finished, else the run's folder."""


class _LossModule(nn.Module):
    """Puts the task's loss inside ``forward``, where distributed wrappers look for it."""

    def __init__(self, denoiser: Denoiser, task: TrainingTask) -> None:
        super().__init__()
        self.denoiser = denoiser
        self._task = task

    def forward(self, batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        sums: LossSums = self._task.loss(self.denoiser, batch)
        return sums.loss, sums.bound


class Trainer:
    """Runs a recipe in a folder."""

    def __init__(self, recipe: Recipe, path: Path) -> None:
        use_cpu = not torch.cuda.is_available()
        device = torch.device("cpu" if use_cpu else "cuda")
        self.recipe = replace(recipe, precision=resolve_precision(recipe.precision, device))
        is_bf16 = self.recipe.precision is Precision.BF16
        self._accelerator = Accelerator(mixed_precision="bf16" if is_bf16 else "no", cpu=use_cpu)
        self._task = recipe.task.build(recipe.spec, recipe.schedule, recipe.seed)
        denoiser = Denoiser(recipe.model)
        self._origin: dict[str, str] | None = None
        if recipe.source is None:
            denoiser.initialise(recipe.seed)
        else:
            adopt_weights(denoiser, recipe.source, recipe.spec.special.mask, recipe.mask_like)
            self._origin = {"model": str(recipe.source), "sha256": model_hash(recipe.source)}
        if recipe.lora is not None:
            add_adapters(denoiser, recipe.lora, recipe.spec.special.mask, recipe.seed)
        if recipe.is_compiled:
            denoiser.compile_parts()
        self._denoiser = denoiser.to(self._accelerator.device)
        dtype = torch.bfloat16 if is_bf16 else torch.float32
        self._optimizers = build_optimizers(self._denoiser, recipe.optimizer, dtype)
        self._model = self._accelerator.prepare(_LossModule(self._denoiser, self._task))
        self._average = WeightAverage(self._denoiser, recipe.ema_decay)
        self._folder = RunFolder(path, recipe.num_kept_checkpoints)
        self._next_step = 0
        self._tokens_seen = 0
        self._smooth_seconds: float | None = None
        self._is_stop_requested = threading.Event()

    @property
    def denoiser(self) -> Denoiser:
        """The network being trained, with its present (not averaged) weights."""
        return self._denoiser

    def resume(self, checkpoint: Path | None = None) -> bool:
        """Continue from a checkpoint, by default the folder's newest; False if there is none.

        Raises:
            TrainingError: the checkpoint is of another recipe (the schedule alone may differ, to branch off a decay).
        """
        if checkpoint is None:
            found = self._folder.checkpoints()
            if not found:
                return False
            checkpoint = found[-1]
        state = self._folder.load(checkpoint)
        if state.get("identity") != self.recipe.identity():
            raise TrainingError(
                f"{checkpoint} was trained by a different recipe; use a new --out, or the recipe it was started with"
            )
        self._denoiser.load_state_dict(state["denoiser"])  # pyright: ignore[reportArgumentType]
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):  # pyright: ignore[reportArgumentType]
            optimizer.load_state_dict(saved)
        self._average.load_state_dict(state["average"])  # pyright: ignore[reportArgumentType]
        self._origin = state.get("origin")  # pyright: ignore[reportAttributeAccessIssue]
        self._next_step, self._tokens_seen = int(str(state["next_step"])), int(str(state["tokens_seen"]))
        if self._next_step > self.recipe.schedule.num_steps:
            raise TrainingError(
                f"{checkpoint} is at step {self._next_step}, beyond the schedule's {self.recipe.schedule.num_steps}"
            )
        return True

    def start_from(self, folder: Path) -> None:
        """Take the weights of a finished model instead of random ones; the optimizers start anew, at step 0.

        Raises:
            CheckpointError: the folder is no model folder.
            TrainingError: its architecture is not the recipe's, or the recipe starts from a model of its own.
        """
        if self.recipe.lora is not None or self.recipe.source is not None:
            raise TrainingError("the recipe says what it starts from; it takes no other weights")
        denoiser, _ = load_folder(folder)
        if denoiser.config != self.recipe.model:
            raise TrainingError(f"{folder} holds {denoiser.config}, but the recipe trains {self.recipe.model}")
        self._denoiser.load_state_dict(denoiser.state_dict())
        self._average = WeightAverage(self._denoiser, self.recipe.ema_decay)
        self._origin = {"model": str(folder), "sha256": model_hash(folder)}

    def run(self, max_minutes: float | None = None) -> RunResult:
        """Train to the end of the schedule, or until ``max_minutes`` have passed or SIGTERM or SIGINT arrives.

        However it stops early, a checkpoint of the last finished step is written first.

        Raises:
            TrainingError: the folder holds checkpoints of later steps, or a gradient is not finite.
        """
        later = [
            path for path in self._folder.checkpoints() if path.name > self._folder.checkpoint_name(self._next_step)
        ]
        if later:
            raise TrainingError(f"{later[-1]} is beyond step {self._next_step}; resume from it, or use another --out")
        if self._is_main:
            self._folder.create(self.recipe.to_json(), self._origin)
            self._folder.drop_log_after(self._next_step)
        deadline = None if max_minutes is None else time.monotonic() + 60 * max_minutes
        handlers = self._catch_signals()
        try:
            with (
                Progress(self._folder.path, self.recipe.schedule.num_steps)
                if self._is_main
                else nullcontext() as progress
            ):
                self._train(progress, deadline)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        is_finished = self._next_step >= self.recipe.schedule.num_steps
        folder = self._export() if is_finished and self._is_main else self._folder.path
        return RunResult(self._next_step, is_finished, folder)

    @property
    def _is_main(self) -> bool:
        return self._accelerator.is_main_process

    def _catch_signals(self) -> dict[int, Any]:  # a handler is a callable, a number or None
        if threading.current_thread() is not threading.main_thread():
            return {}

        def request_stop(number: int, frame: FrameType | None) -> None:
            del number, frame
            self._is_stop_requested.set()

        return {number: signal.signal(number, request_stop) for number in (signal.SIGTERM, signal.SIGINT)}

    def _train(self, progress: Progress | None, deadline: float | None) -> None:
        recipe = self.recipe
        peak = matmul_peak(recipe.precision, self._accelerator.device)
        if progress is not None:
            progress.note(
                f"{recipe.name}: {recipe.model.num_parameters / 1e6:.1f}M parameters, {recipe.precision}, "
                f"matrix-product peak {peak / 1e9:,.0f} GFLOP/s, "
                f"{recipe.schedule.num_steps - self._next_step} steps to go"
            )
        saved_at = time.monotonic()
        while self._next_step < recipe.schedule.num_steps:
            step, start = self._next_step, time.monotonic()
            figures, flops, num_tokens = self._train_step(step)
            self._next_step += 1
            self._tokens_seen += num_tokens
            seconds = time.monotonic() - start
            if progress is not None:
                if recipe.validation_steps and self._next_step % recipe.validation_steps == 0:
                    figures |= self._validate()
                speed = {"tokens_per_s": num_tokens / seconds, "mfu": flops / seconds / peak}
                left = {"seconds_left": self._seconds_left(seconds), "tokens": float(self._tokens_seen)}
                progress.step(step, figures | speed | left)
            is_due = (
                time.monotonic() - saved_at > 60 * recipe.checkpoint_minutes
                or self._next_step % recipe.checkpoint_steps == 0
            )
            is_late = deadline is not None and time.monotonic() > deadline
            is_stopping = self._is_on_any_rank(self._is_stop_requested.is_set() or is_late)
            if is_due or is_stopping or self._next_step == recipe.schedule.num_steps:
                self._save()
                # The best of several measurements: a machine that was busy at the start would flatter the share.
                peak = max(peak, matmul_peak(recipe.precision, self._accelerator.device))
                saved_at = time.monotonic()
            if is_stopping:
                return

    def _train_step(self, step: int) -> tuple[dict[str, float], float, int]:
        """One optimizer update. Returns figures, operations (FLOP) and target tokens of the global batch."""
        accelerator = self._accelerator
        self._model.train()
        batches = self._task.micro_batches(step, accelerator.process_index, accelerator.num_processes)
        if not batches:
            raise TrainingError(f"{accelerator.num_processes} processes are more than a step has rows; use fewer")
        counts = torch.tensor(
            [sum(b.num_targets for b in batches), sum(b.num_bound_targets for b in batches)], dtype=torch.float64
        )
        num_targets, num_bound_targets = self._sum_over_ranks(counts).tolist()
        sums = torch.zeros(2, dtype=torch.float64)
        for index, batch in enumerate(batches):
            is_last = index + 1 == len(batches)
            with nullcontext() if is_last else accelerator.no_sync(self._model), accelerator.autocast():
                loss, bound = self._model(batch.to(accelerator.device))
            # Distributed wrappers average gradients over ranks; the loss is a sum over the global batch.
            accelerator.backward(loss * (accelerator.num_processes / num_targets))
            sums += torch.stack([loss.detach(), bound]).cpu().double()
        loss_sum, bound_sum = self._sum_over_ranks(sums).tolist()
        figures = {"loss": loss_sum / num_targets} | self._update(step)
        if num_bound_targets and self._task.bytes_per_token:
            figures["bits_per_byte"] = bits_per_byte(bound_sum, num_bound_targets * self._task.bytes_per_token)
        return figures, accelerator.num_processes * sum(map(self._flops, batches)), int(num_targets)

    def _update(self, step: int) -> dict[str, float]:
        recipe = self.recipe
        norm = self._accelerator.clip_grad_norm_(self._model.parameters(), recipe.optimizer.max_grad_norm)
        if norm is None or not torch.isfinite(norm):
            raise TrainingError(f"the gradient of step {step} is not finite; the last checkpoint is unharmed")
        multiplier = recipe.schedule.multiplier(step)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * multiplier
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self._average.update(self._denoiser)
        return {"grad_norm": float(norm), "lr_multiplier": multiplier}

    def _sum_over_ranks(self, values: torch.Tensor) -> torch.Tensor:
        if self._accelerator.num_processes == 1:
            return values
        return self._accelerator.reduce(values.to(self._accelerator.device), reduction="sum").cpu()  # pyright: ignore[reportAttributeAccessIssue]

    def _is_on_any_rank(self, flag: bool) -> bool:
        """A rank that stopped alone would leave the others waiting for its gradients."""
        return bool(self._sum_over_ranks(torch.tensor(float(flag))) > 0)

    def _flops(self, batch: MicroBatch) -> float:
        """Operations of the matrices that the objective needs; attention scores are left out, as is usual for MFU."""
        model = self.recipe.model
        head = model.vocab_size * model.model_width * len(batch.target_rows)
        return float(_MODEL_FLOPS * (model.num_active_parameters * batch.num_tokens + head))

    def _seconds_left(self, last_seconds: float) -> float:
        # Smoothed, because the first step compiles and validations pause.
        previous = last_seconds if self._smooth_seconds is None else self._smooth_seconds
        self._smooth_seconds = 0.9 * previous + 0.1 * last_seconds
        return self._smooth_seconds * (self.recipe.schedule.num_steps - self._next_step)

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        self._model.eval()
        with self._accelerator.autocast():
            return self._task.validate(self._denoiser)

    def _save(self) -> None:
        if not self._is_main:
            return
        state: dict[str, object] = {
            "identity": self.recipe.identity(),
            "origin": self._origin,
            "next_step": self._next_step,
            "tokens_seen": self._tokens_seen,
            "denoiser": self._denoiser.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "average": self._average.state_dict(),
        }
        self._folder.save(state, self._next_step)

    def _export(self) -> Path:
        """Write the averaged weights as a checkpoint folder."""
        denoiser = self.recipe.denoiser_of(self._denoiser.state_dict() | self._average.weights)
        folder = self._folder.path / "final"
        save_folder(folder, denoiser, self.recipe.spec)
        self._task.export_extras(folder)
        return folder
