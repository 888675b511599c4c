"""Finding and loading checkpoints: folders by path, bundled models by name."""

from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import torch

from quicksilver.api.model import Model
from quicksilver.checkpoints.folder import CHAT_TEMPLATE_FILE, DTYPES
from quicksilver.checkpoints.loading import Opened, Progress, load_folder, open_folder, stored_dtype
from quicksilver.diffusion.spec import DiffusionSpec
from quicksilver.engine import costs
from quicksilver.engine.engine import EngineConfig
from quicksilver.engine.planning import MemoryPlan, available_bytes, plan_memory, require_fit
from quicksilver.errors import CheckpointError, ConfigError
from quicksilver.models.denoiser import Denoiser
from quicksilver.models.parallel import share_of
from quicksilver.models.ranks import Ranks
from quicksilver.quantization.scheme import parse_scheme
from quicksilver.tokenization.foreign import foreign_chat_template, load_foreign, load_tokenizer
from quicksilver.tokenization.tokenizer import Tokenizer

DEFAULT_MODEL = "quicksilver-coder"
LARGE = 1_000_000_000
"""Parameters from which a model stays in the dtype that it is stored in, unless another is asked for."""
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
    dtype: str | None = None,
    quantize: str | None = None,
    row_budget: int | str | None = None,
    num_pages: int | None = None,
    max_length: int | None = None,
    progress: Progress | None = None,
    ranks: Ranks | None = None,
) -> Model:
    """Load a model; refused before any weight is read if device memory is too small for it.

    Args:
        path_or_name: a checkpoint folder, of our own or as a known family publishes it (``checkpoints.families``), or
            the name of a bundled model.
        device: ``cpu``, ``cuda`` or ``cuda:N``; None takes a GPU if there is one.
        dtype: ``float32``, ``bfloat16`` or ``float16``; None: float32, or as stored from ``LARGE`` parameters on.
        quantize: a scheme for the projections, see ``quantization.Scheme``; None: none, or the folder's own.
        row_budget: most rows of one forward. ``auto``, for processes that live long: what suits this machine, measured
            for a few seconds and remembered in the user's cache folder (``engine.costs``). None: the engine's default.
        num_pages: pages of key/value memory; None: the engine's default.
        max_length: longest canvas, if shorter than the checkpoint's own.
        progress: told the bytes loaded and those of all weights after every tensor.
        ranks: processes that hold the model together, on devices of their own. All load it; the model of rank 0 is used
            like any other, those of the others ``follow``.

    Raises:
        CheckpointError: there is no such model, or its files are incomplete or contradict each other.
        ConfigError: there is no such device, dtype or scheme, or they do not go together; ``row_budget`` is neither
            ``auto`` nor a number from 1 on; ``max_length`` is below 1; or the ranks cannot divide the model.
        RankError: another rank is gone.
    """
    if ranks is not None and device is not None:
        raise ConfigError(f"device {device!r} contradicts ranks, which have joined on devices of their own")
    _check_limits(row_budget, max_length)
    folder, target = find_model(path_or_name), resolve_device(device) if ranks is None else ranks.device
    opened, engine = open_folder(folder), EngineConfig(num_pages=num_pages)
    tokenizer, template = _tokenizer(folder, opened)
    if opened.config.num_parameters >= LARGE:
        num_ranks, where = (1, device) if ranks is None else (ranks.size, str(target))
        asked = {"dtype": dtype, "quantize": quantize}
        plan = plan_folder(folder, device=where, num_pages=num_pages, num_ranks=num_ranks, **asked)
        require_fit(share_of(opened.config, num_ranks), engine, plan, target, folder.name)
    denoiser, spec = load_folder(folder, _dtype(dtype, opened), target, progress, parse_scheme(quantize), ranks)
    if max_length is not None:
        denoiser.config = replace(denoiser.config, max_length=min(max_length, denoiser.config.max_length))
    if ranks is not None:
        ranks.meet()
        row_budget = row_budget if ranks.leads else None
    if row_budget is not None:
        engine = replace(engine, row_budget=_num_rows(row_budget, denoiser, spec))
    name = folder.resolve().name
    return Model(denoiser, spec, tokenizer, name=name, chat_template=template, engine_config=engine)


def _check_limits(row_budget: int | str | None, max_length: int | None) -> None:
    if row_budget not in (None, AUTO) and (isinstance(row_budget, str) or row_budget < 1):
        raise ConfigError(f"row_budget is a number of rows from 1 on, or {AUTO!r}; got {row_budget!r}")
    if max_length is not None and max_length < 1:
        raise ConfigError(f"max_length must be at least 1, got {max_length}")


def plan_folder(
    path_or_name: str | Path,
    *,
    device: str | None = None,
    dtype: str | None = None,
    quantize: str | None = None,
    num_pages: int | None = None,
    num_ranks: int = 1,
) -> MemoryPlan:
    """What ``load`` and the engine would take, by ``load``'s arguments; no weights are read.

    With several ranks, what one of them would; on a CPU all are taken to share this machine's memory.
    """
    folder, target = find_model(path_or_name), resolve_device(device)
    opened = open_folder(folder)
    wanted = _dtype(dtype, opened)
    return plan_memory(
        share_of(opened.config, num_ranks),
        EngineConfig(num_pages=num_pages),
        dtype=stored_dtype(folder, opened) if wanted is None else wanted,
        scheme=parse_scheme(quantize) or opened.scheme,
        device=target,
        available=available_bytes(target) // (num_ranks if target.type == "cpu" else 1),
    )


def _dtype(name: str | None, opened: Opened) -> torch.dtype | None:
    if name is None:
        return torch.float32 if opened.config.num_parameters < LARGE else None
    if name not in DTYPES:
        raise ConfigError(f"no dtype {name!r}; known: {', '.join(DTYPES)}")
    return DTYPES[name]


def _tokenizer(folder: Path, opened: Opened) -> tuple[Tokenizer, str | None]:
    """The folder's tokenizer and chat template."""
    path = folder / CHAT_TEMPLATE_FILE
    template = path.read_text(encoding="utf-8") if path.is_file() else None
    if opened.family is None:
        return load_tokenizer(folder), template
    return load_foreign(folder), template or foreign_chat_template(folder)


def _num_rows(row_budget: int | str, denoiser: Denoiser, spec: DiffusionSpec) -> int:
    if isinstance(row_budget, int):
        return row_budget
    # Without blocks nothing is committed beside a window.
    longest_block = 1 if spec.continues_in_place else spec.block_length
    return costs.choose_row_budget(costs.load_or_measure(denoiser, spec), longest_block=longest_block)


def resolve_device(name: str | None) -> torch.device:
    """The device of a name, see ``load``; raises ConfigError if it is not here."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"no device {name!r}; use cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and not torch.cuda.is_available()):
        raise ConfigError(f"device {name!r} is not available here")
    return device
