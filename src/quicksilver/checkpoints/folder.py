"""Quicksilver's checkpoint folder: a Hugging Face folder whose config.json also carries the diffusion spec.

config.json (``quicksilver`` beside the keys of a Hugging Face layout, or of our own where none fits), safetensors,
tokenizer.json, generation_config.json. ``opening`` reads it and the folders of other families alike.
"""

import hashlib
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file

from quicksilver.checkpoints.keys import Keys
from quicksilver.checkpoints.layouts import LAYOUTS, layout_of, read_layout, write_layout
from quicksilver.checkpoints.plain import from_plain
from quicksilver.checkpoints.sharded import WEIGHTS_FILE, weight_files
from quicksilver.diffusion.spec import DiffusionSpec
from quicksilver.errors import CheckpointError, ConfigError
from quicksilver.models.config import DenoiserConfig
from quicksilver.models.denoiser import Denoiser
from quicksilver.quantization import Scheme

CHAT_TEMPLATE_FILE = "chat_template.jinja"
CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer.json"
SPEC_KEY = "quicksilver"
QUANTIZATION_KEY = "quicksilver_quantization"
"""Scheme that the projections are stored in, see ``quantization.stored``; without it they are plain."""
_OWN_LAYOUT = "quicksilver"
_NETWORK_KEY = "network"
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}
"""What weights are saved and loaded in."""


def save_folder(folder: Path, denoiser: Denoiser, spec: DiffusionSpec, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write weights in ``dtype``, architecture and spec. Its owner writes the tokenizer, as ``tokenizer.json``."""
    name = next((name for name, known in DTYPES.items() if known is dtype), None)
    if name is None:
        raise ConfigError(f"weights are saved in {', '.join(DTYPES)}, not {dtype}")
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder, denoiser.config, spec, name)
    weights = {name: value.detach().to(dtype).contiguous() for name, value in denoiser.state_dict().items()}
    save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})


def write_config(
    folder: Path, config: DenoiserConfig, spec: DiffusionSpec, dtype: str, scheme: Scheme | None = None
) -> None:
    """Write ``config.json`` and ``generation_config.json``."""
    values = _architecture_keys(config) | {
        "torch_dtype": dtype,
        "bos_token_id": None,
        "eos_token_id": spec.special.eos,
        "pad_token_id": spec.special.pad,
        SPEC_KEY: spec.to_dict(),
    }
    if scheme is not None:
        values[QUANTIZATION_KEY] = scheme.value
    (folder / CONFIG_FILE).write_text(json.dumps(values, indent=2) + "\n")
    generation = {"eos_token_id": spec.special.eos, "pad_token_id": spec.special.pad}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")


def _architecture_keys(config: DenoiserConfig) -> dict[str, object]:
    if layout_of(config) is not None:
        return write_layout(config)
    return {"model_type": _OWN_LAYOUT, _NETWORK_KEY: asdict(config)}


def copy_folder(source: Path, target: Path, spec: DiffusionSpec) -> None:
    """A copy of a checkpoint folder that states another spec, for example other decoding defaults.

    Raises:
        CheckpointError: there is no such folder, or ``target`` holds files already.
    """
    read_config(source)
    require_new_folder(target)
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        if path.is_file() and path.name != CONFIG_FILE:
            shutil.copyfile(path, target / path.name)
    config = json.loads((source / CONFIG_FILE).read_text())
    (target / CONFIG_FILE).write_text(json.dumps(config | {SPEC_KEY: spec.to_dict()}, indent=2) + "\n")


def require_new_folder(folder: Path) -> None:
    """Raises CheckpointError if the path is a file or a folder that is not empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder} exists and is not an empty folder; choose another")


def read_values(folder: Path) -> dict[str, object]:
    """The keys of a folder's config.json.

    Raises:
        CheckpointError: no such folder, no config.json, or one that holds no JSON object.
    """
    path = folder / CONFIG_FILE
    if not folder.is_dir():
        raise CheckpointError(f"no model folder {folder}")
    if not path.is_file():
        raise CheckpointError(f"{folder} holds no {CONFIG_FILE}, so it is no model folder")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds no object")
    return values


def is_own(values: dict[str, object]) -> bool:
    """Whether a config.json says how its model was trained, so that nothing has to be known about a family."""
    return isinstance(values.get(SPEC_KEY), dict)


def read_config(folder: Path) -> tuple[DenoiserConfig, DiffusionSpec]:
    """The architecture and spec of a folder of our own.

    Raises:
        CheckpointError: no such folder, no config.json, or one without a diffusion spec.
    """
    values, path = read_values(folder), folder / CONFIG_FILE
    section = values.get(SPEC_KEY)
    if not isinstance(section, dict):
        raise CheckpointError(f"{path} has no {SPEC_KEY!r} section saying how the model was trained")
    try:
        architecture, spec = _read_architecture(values), DiffusionSpec.from_dict(section)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error
    require_known_ids(path, architecture, spec)
    return architecture, spec


def read_scheme(folder: Path) -> Scheme | None:
    """How a folder's projections are quantized; raises CheckpointError if it says something unknown."""
    value = read_values(folder).get(QUANTIZATION_KEY)
    if value is None:
        return None
    try:
        return Scheme(str(value))
    except ValueError as error:
        raise CheckpointError(
            f"{folder / CONFIG_FILE} sets {QUANTIZATION_KEY} = {value!r}; known: {', '.join(Scheme)}"
        ) from error


def require_known_ids(path: Path, config: DenoiserConfig, spec: DiffusionSpec) -> None:
    """Raises CheckpointError if a special token has no row in the table."""
    highest = max(value for value in asdict(spec.special).values() if value is not None)
    if highest >= config.vocab_size:
        raise CheckpointError(f"{path}: special token ids reach {highest}, but the vocabulary has {config.vocab_size}")


def _read_architecture(values: dict[str, object]) -> DenoiserConfig:
    layout = values.get("model_type")
    if layout == _OWN_LAYOUT:
        return _read_network(values.get(_NETWORK_KEY))
    if layout not in LAYOUTS:
        raise ConfigError(f"model_type must be {', '.join(LAYOUTS)} or {_OWN_LAYOUT}, got {layout!r}")
    keys = Keys(values)
    keys.inert(SPEC_KEY, QUANTIZATION_KEY)
    config = read_layout(keys, str(layout))
    keys.finish()
    return config


def _read_network(values: object) -> DenoiserConfig:
    """``asdict`` of a configuration, read back."""
    if not isinstance(values, dict):
        raise ConfigError(f"{_NETWORK_KEY} must be an object, got {values!r}")
    return from_plain(DenoiserConfig, values)


def model_hash(folder: Path) -> str:
    """sha256 over the configuration, weights and, if there is one, tokenizer of a checkpoint folder."""
    digest = hashlib.sha256()
    names = [CONFIG_FILE, *(path.name for path in weight_files(folder)), TOKENIZER_FILE]
    for name in names:
        if name == TOKENIZER_FILE and not (folder / name).is_file():
            continue  # a sudoku model has none
        digest.update(name.encode())
        with (folder / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
