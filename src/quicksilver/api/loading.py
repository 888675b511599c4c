"""Finding and loading checkpoints: folders by path, bundled models by name."""

from importlib.resources import files
from pathlib import Path

import torch

from quicksilver.api.model import Model
from quicksilver.checkpoints.folder import CHAT_TEMPLATE_FILE, TOKENIZER_FILE
from quicksilver.checkpoints.loading import load_folder
from quicksilver.diffusion.spec import DiffusionSpec
from quicksilver.engine import costs
from quicksilver.engine.engine import EngineConfig
from quicksilver.errors import CheckpointError, ConfigError
from quicksilver.models.denoiser import Denoiser
from quicksilver.models.ranks import Ranks
from quicksilver.tokenization.tokenizer import Tokenizer

DEFAULT_MODEL = "quicksilver-coder"
AUTO = "auto"
"""The row budget that is measured."""
_WEIGHTS = Path(str(files("quicksilver"))) / "weights"


def bundled_models() -> tuple[str, ...]:
    """Names of the models that came with this installation."""
    return tuple(sorted(path.parent.name for path in _WEIGHTS.glob("*/model.safetensors")))


def find_model(path_or_name: str | Path) -> Path:
    """The checkpoint folder of a path or of a bundled model's name. A name without ``/`` is a bundled model first.

    Raises:
        CheckpointError: it is neither.
    """
    folder = Path(path_or_name)
    bundled = bundled_models()
    if isinstance(path_or_name, str) and path_or_name in bundled:
        return _WEIGHTS / path_or_name
    if folder.is_dir():
        return folder
    names = ", ".join(bundled) or "none"
    raise CheckpointError(
        f"no model {str(path_or_name)!r}: no such folder, and not a bundled model (there are: {names})"
    )


def load(
    path_or_name: str | Path = DEFAULT_MODEL,
    *,
    device: str | None = None,
    row_budget: int | str | None = None,
    ranks: Ranks | None = None,
) -> Model:
    """Load a model in float32.

    Args:
        path_or_name: a checkpoint folder, or the name of a bundled model.
        device: ``cpu``, ``cuda`` or ``cuda:N``; None takes a GPU if there is one.
        row_budget: most rows of one forward. ``auto``, for processes that live long: what suits this machine, measured
            for a few seconds and remembered in the user's cache folder (``engine.costs``). None: the engine's default.
        ranks: processes that hold the model together, on devices of their own. All load it; the model of rank 0 is used
            like any other, those of the others ``follow``.

    Raises:
        CheckpointError: there is no such model, or its files are incomplete or contradict each other.
        ConfigError: there is no such device, ``row_budget`` is neither ``auto`` nor a number from 1 on, or the ranks
            cannot divide the model.
        RankError: another rank is gone.
    """
    if row_budget not in (None, AUTO) and (isinstance(row_budget, str) or row_budget < 1):
        raise ConfigError(f"row_budget is a number of rows from 1 on, or {AUTO!r}; got {row_budget!r}")
    folder = find_model(path_or_name)
    if ranks is not None and device is not None:
        raise ConfigError(f"device {device!r} contradicts ranks, which have joined on devices of their own")
    target = _device(device) if ranks is None else ranks.device
    denoiser, spec = load_folder(folder, torch.float32, ranks=ranks)
    if not (folder / TOKENIZER_FILE).is_file():
        raise CheckpointError(f"{folder} lacks {TOKENIZER_FILE}")
    tokenizer = Tokenizer.load(folder / TOKENIZER_FILE)
    denoiser, template = denoiser.to(target), folder / CHAT_TEMPLATE_FILE
    if ranks is not None:
        ranks.meet()
        row_budget = row_budget if ranks.leads else None
    return Model(
        denoiser,
        spec,
        tokenizer,
        name=folder.resolve().name,
        chat_template=template.read_text(encoding="utf-8") if template.is_file() else None,
        engine_config=None if row_budget is None else EngineConfig(row_budget=_num_rows(row_budget, denoiser, spec)),
    )


def _num_rows(row_budget: int | str, denoiser: Denoiser, spec: DiffusionSpec) -> int:
    if isinstance(row_budget, int):
        return row_budget
    return costs.choose_row_budget(costs.load_or_measure(denoiser, spec), longest_block=spec.block_length)


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"no device {name!r}; use cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and not torch.cuda.is_available()):
        raise ConfigError(f"device {name!r} is not available here")
    return device
