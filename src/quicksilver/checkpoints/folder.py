"""Quicksilver's checkpoint folder: a Hugging Face folder whose config.json also carries the diffusion spec.

config.json (Qwen3 keys + ``quicksilver``), model.safetensors, tokenizer.json, generation_config.json.
"""

import hashlib
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from quicksilver.diffusion.spec import DiffusionSpec
from quicksilver.errors import CheckpointError, ConfigError
from quicksilver.models.config import DenoiserConfig
from quicksilver.models.denoiser import Denoiser

CHAT_TEMPLATE_FILE = "chat_template.jinja"
TOKENIZER_FILE = "tokenizer.json"
_SPEC_KEY = "quicksilver"


def save_folder(folder: Path, denoiser: Denoiser, spec: DiffusionSpec, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write weights in ``dtype``, architecture and spec. Its owner writes the tokenizer, as ``tokenizer.json``."""
    names = {torch.bfloat16: "bfloat16", torch.float32: "float32", torch.float16: "float16"}
    if dtype not in names:
        raise ConfigError(f"weights are saved in {', '.join(names.values())}, not {dtype}")
    folder.mkdir(parents=True, exist_ok=True)
    config = denoiser.config.to_hf() | {
        "torch_dtype": names[dtype],
        "bos_token_id": None,
        "eos_token_id": spec.special.eos,
        "pad_token_id": spec.special.pad,
        _SPEC_KEY: spec.to_dict(),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    generation = {"eos_token_id": spec.special.eos, "pad_token_id": spec.special.pad}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    weights = {name: value.detach().to(dtype).contiguous() for name, value in denoiser.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def copy_folder(source: Path, target: Path, spec: DiffusionSpec) -> None:
    """A copy of a checkpoint folder that states another spec, for example other decoding defaults.

    Raises:
        CheckpointError: there is no such folder, or ``target`` holds files already.
    """
    read_config(source)
    require_new_folder(target)
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        if path.is_file() and path.name != "config.json":
            shutil.copyfile(path, target / path.name)
    config = json.loads((source / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | {_SPEC_KEY: spec.to_dict()}, indent=2) + "\n")


def require_new_folder(folder: Path) -> None:
    """Raises CheckpointError if the path is a file or a folder that is not empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder} exists and is not an empty folder; choose another")


def read_config(folder: Path) -> tuple[DenoiserConfig, DiffusionSpec]:
    """The architecture and spec of a folder.

    Raises:
        CheckpointError: no such folder, no config.json, or one without a diffusion spec.
    """
    path = folder / "config.json"
    if not folder.is_dir():
        raise CheckpointError(f"no model folder {folder}")
    if not path.is_file():
        raise CheckpointError(f"{folder} holds no config.json, so it is no model folder")
    try:
        config = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get(_SPEC_KEY), dict):
        raise CheckpointError(f"{path} has no {_SPEC_KEY!r} section saying how the model was trained")
    try:
        architecture, spec = DenoiserConfig.from_hf(config), DiffusionSpec.from_dict(config[_SPEC_KEY])
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error
    highest = max(value for value in asdict(spec.special).values() if value is not None)
    if highest >= architecture.vocab_size:
        raise CheckpointError(
            f"{path}: special token ids reach {highest}, but the vocabulary has {architecture.vocab_size}"
        )
    return architecture, spec


def model_hash(folder: Path) -> str:
    """sha256 over the configuration, weights and, if there is one, tokenizer of a checkpoint folder."""
    digest = hashlib.sha256()
    for name in ("config.json", "model.safetensors", TOKENIZER_FILE):
        if name == TOKENIZER_FILE and not (folder / name).is_file():
            continue  # a sudoku model has none
        digest.update(name.encode())
        with (folder / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def load_folder(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[Denoiser, DiffusionSpec]:
    """Load weights into a denoiser of ``dtype``, in evaluation mode.

    Raises:
        CheckpointError: a file is missing or damaged, or the weights do not fit the architecture.
    """
    config, spec = read_config(folder)
    path = folder / "model.safetensors"
    if not path.is_file():
        raise CheckpointError(f"{folder} lacks model.safetensors")
    # Not on the meta device: entering it imports torch._dynamo, two seconds that a command line should not wait.
    denoiser = Denoiser(config).to(dtype).eval().requires_grad_(False)
    try:
        # One tensor after the other, so that no second copy of the weights is ever held.
        with safe_open(path, framework="pt") as file:
            _copy_weights(file, denoiser, path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    return denoiser, spec


def _copy_weights(file: safe_open, denoiser: Denoiser, path: Path) -> None:
    expected, names = denoiser.state_dict(), set(file.keys())
    if denoiser.config.has_tied_embeddings:
        names.discard("lm_head.weight")  # some writers repeat the tied table
    wrong = sorted(set(expected) ^ names)
    if wrong:
        raise CheckpointError(f"{path} does not fit its config.json: missing or unexpected {', '.join(wrong[:4])}")
    for name, parameter in expected.items():
        value = file.get_tensor(name)
        if value.shape != parameter.shape:
            raise CheckpointError(
                f"{path}: {name} has shape {list(value.shape)}, its config.json says {list(parameter.shape)}"
            )
        parameter.copy_(value)
