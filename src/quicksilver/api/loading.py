"""Finding and loading checkpoints: folders by path, bundled models by name."""

from importlib.resources import files
from pathlib import Path

import torch

from quicksilver.api.model import Model
from quicksilver.checkpoints.folder import CHAT_TEMPLATE_FILE, TOKENIZER_FILE, load_folder
from quicksilver.engine.engine import EngineConfig
from quicksilver.errors import CheckpointError, ConfigError
from quicksilver.tokenization.tokenizer import Tokenizer

DEFAULT_MODEL = "quicksilver-coder"
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
    path_or_name: str | Path = DEFAULT_MODEL, *, device: str | None = None, engine_config: EngineConfig | None = None
) -> Model:
    """Load a model in float32.

    Args:
        path_or_name: a checkpoint folder, or the name of a bundled model.
        device: ``cpu``, ``cuda`` or ``cuda:N``; None takes a GPU if there is one.
        engine_config: limits of the engine that runs its requests; None: defaults.

    Raises:
        CheckpointError: there is no such model, or its files are incomplete or contradict each other.
        ConfigError: there is no such device.
    """
    folder = find_model(path_or_name)
    target = _device(device)
    denoiser, spec = load_folder(folder, torch.float32)
    if not (folder / TOKENIZER_FILE).is_file():
        raise CheckpointError(f"{folder} lacks {TOKENIZER_FILE}")
    tokenizer = Tokenizer.load(folder / TOKENIZER_FILE)
    template = folder / CHAT_TEMPLATE_FILE
    return Model(
        denoiser.to(target),
        spec,
        tokenizer,
        name=folder.resolve().name,
        chat_template=template.read_text(encoding="utf-8") if template.is_file() else None,
        engine_config=engine_config,
    )


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
