"""What a run is: a recipe, built by a plain Python function in ``recipes/`` and written beside the run's output."""

import dataclasses
import importlib.util
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

from torch import Tensor

from quicksilver.diffusion.spec import DiffusionSpec
from quicksilver.errors import ConfigError
from quicksilver.models.config import DenoiserConfig
from quicksilver.models.denoiser import Denoiser
from quicksilver.training.batch import LossSums, MicroBatch
from quicksilver.training.lora import LoraConfig, merged_weights
from quicksilver.training.lr_schedule import WarmupStableDecay
from quicksilver.training.optimizers import OptimizerConfig


class Precision(StrEnum):
    """Arithmetic of the matrix products. Master weights and optimizer state are float32 either way."""

    AUTO = "auto"
    """bf16 where the hardware multiplies it faster, else float32; the choice is written into the run's recipe."""
    FLOAT32 = "float32"
    BF16 = "bf16"


@runtime_checkable
class TrainingTask(Protocol):
    """Data and loss of a run. Everything it returns is a pure function of its arguments."""

    @property
    def bytes_per_token(self) -> float | None:
        """Mean bytes of text per target token, to report bits per byte; None if the data is no text."""
        ...

    def micro_batches(self, step: int, rank: int, num_ranks: int) -> list[MicroBatch]: ...

    def loss(self, denoiser: Denoiser, batch: MicroBatch) -> LossSums: ...

    def validate(self, denoiser: Denoiser) -> dict[str, float]:
        """Figures on held-out data; an empty dictionary if there is none."""
        ...

    def export_extras(self, folder: Path) -> None:
        """Write what the checkpoint folder needs beside weights and config, for example the tokenizer."""
        ...


@runtime_checkable
class TaskConfig(Protocol):
    """A frozen dataclass that builds its task."""

    def build(self, spec: DiffusionSpec, schedule: WarmupStableDecay, seed: int) -> TrainingTask: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Everything that determines a run's result. The same recipe on the same machine gives the same weights."""

    name: str
    model: DenoiserConfig
    spec: DiffusionSpec
    task: TaskConfig
    schedule: WarmupStableDecay
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    source: Path | None = None
    """Folder of the autoregressive model whose weights an adaptation starts from; None: random weights."""
    mask_like: int | None = None
    """Token whose row the mask's starts as in an adaptation; None: the mean of all rows."""
    lora: LoraConfig | None = None
    """Adapters that are trained instead of the source's weights; None: everything is trained."""
    ema_decay: float = 0.998
    precision: Precision = Precision.AUTO
    is_compiled: bool = False
    """Compile the layers around their attention; needs a C++ compiler on a CPU."""
    seed: int = 0
    checkpoint_minutes: float = 10.0
    checkpoint_steps: int = 1000
    num_kept_checkpoints: int = 2
    validation_steps: int = 250
    """Steps between validations; 0 turns them off."""

    def __post_init__(self) -> None:
        if self.checkpoint_minutes <= 0 or self.checkpoint_steps < 1 or self.num_kept_checkpoints < 1:
            raise ConfigError("checkpoints need positive minutes and steps, and at least one must be kept")
        if self.lora is not None and (self.source is None or self.optimizer.has_muon):
            raise ConfigError("adapters need a source whose weights they stand beside, and has_muon=False")
        if self.validation_steps < 0:
            raise ConfigError(f"validation_steps must not be negative, got {self.validation_steps}")

    def to_json(self) -> str:
        """The resolved recipe, for the run's folder."""
        return json.dumps(dataclasses.asdict(self), indent=2, default=str) + "\n"

    def denoiser_of(self, weights: Mapping[str, Tensor]) -> Denoiser:
        """A plain denoiser with the weights of one that this recipe trains, adapters merged."""
        if self.lora is not None:
            weights = merged_weights(self.model, self.lora, self.spec.special.mask, weights)
        denoiser = Denoiser(self.model)
        denoiser.load_state_dict(dict(weights))
        return denoiser.eval().requires_grad_(False)

    def identity(self) -> str:
        """What must agree for a checkpoint to continue this recipe: all but the schedule and the housekeeping."""
        free = {
            "schedule",
            "checkpoint_minutes",
            "checkpoint_steps",
            "num_kept_checkpoints",
            "validation_steps",
            "name",
            "is_compiled",
        }
        # Of a run from random weights, the identity of recipes from before there was adaptation.
        free |= {name for name in ("source", "mask_like", "lora") if getattr(self, name) is None}
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in free}
        values = {
            name: dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value
            for name, value in values.items()
        }  # pyright: ignore[reportArgumentType]
        return json.dumps(values, sort_keys=True, default=str)


def load_recipe(name: str, recipes_dir: Path) -> Callable[..., Recipe]:
    """The recipe function ``file:function`` or ``function``, looked up among the files of ``recipes_dir``.

    Raises:
        ConfigError: no such file or function; the message lists what there is.
    """
    stem, _, function = name.rpartition(":")
    files = [recipes_dir / f"{stem}.py"] if stem else sorted(recipes_dir.glob("[!_]*.py"))
    if stem.endswith(".py"):
        files = [Path(stem)]
    known = []
    for path in files:
        if not path.is_file():
            raise ConfigError(f"no recipe file {path}")
        spec = importlib.util.spec_from_file_location(f"quicksilver_recipe_{path.stem}", path)
        if spec is None or spec.loader is None:
            raise ConfigError(f"{path} is not a Python file")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for attribute, value in vars(module).items():
            is_own = getattr(value, "__module__", None) == module.__name__  # not imported from another file
            returns = getattr(value, "__annotations__", {}).get("return")
            if is_own and callable(value) and returns is Recipe and not attribute.startswith("_"):
                known.append(f"{path.stem}:{attribute}")
                if attribute == function:
                    return cast(Callable[..., Recipe], value)
    raise ConfigError(f"no recipe {name!r}; there are: {', '.join(known) or f'none in {recipes_dir}'}")
