"""Export to a folder that ``transformers`` loads without this package."""

import json
import shutil
from importlib.resources import files
from pathlib import Path

import torch

from quicksilver.checkpoints.folder import CHAT_TEMPLATE_FILE, CONFIG_FILE, DTYPES, TOKENIZER_FILE, save_folder
from quicksilver.checkpoints.layouts import layout_of
from quicksilver.checkpoints.loading import load_folder
from quicksilver.diffusion.spec import Objective, SpecialIds
from quicksilver.errors import CheckpointError, ConfigError, UsageError
from quicksilver.tokenization.foreign import load_tokenizer
from quicksilver.tokenization.tokenizer import Tokenizer

_SHIPPED = "modeling_quicksilver"


def export_folder(folder: Path, out: Path, *, dtype: str) -> None:
    """Copy a checkpoint folder into ``out`` with weights in ``dtype`` and the tokenizer files of ``transformers``.

    Raises:
        CheckpointError: ``folder`` is no whole checkpoint.
        ConfigError: its architecture is in no layout that transformers knows.
        UsageError: ``out`` exists and is not empty, or cannot be written, or ``dtype`` is unknown.
    """
    if dtype not in DTYPES:
        raise UsageError(f"no dtype {dtype!r}; known: {', '.join(DTYPES)}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} exists and is not an empty folder")
    if not (folder / TOKENIZER_FILE).is_file():
        raise CheckpointError(f"{folder} lacks {TOKENIZER_FILE}")
    tokenizer = load_tokenizer(folder)
    denoiser, spec = load_folder(folder, torch.float32)
    layout = layout_of(denoiser.config)
    if layout is None:
        raise ConfigError(
            f"{folder.name} cannot be written for transformers: its architecture is neither Qwen3's nor Qwen2's nor "
            "Llama's"
        )
    try:
        save_folder(out, denoiser, spec, DTYPES[dtype])
        if spec.objective is not Objective.AUTOREGRESSIVE:
            _ship_code(out, layout)
        tokenizer.save(out / TOKENIZER_FILE)
        config = _tokenizer_config(spec.special, tokenizer, denoiser.config.max_length)
        (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
        for name in ("README.md", CHAT_TEMPLATE_FILE):
            if (folder / name).is_file():
                shutil.copyfile(folder / name, out / name)
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error}") from error


def _ship_code(out: Path, layout: str) -> None:
    """Transformers has no class for a model that looks both ways in these layouts, so the folder brings one."""
    code = (files("quicksilver.checkpoints.shipped") / f"{_SHIPPED}.py").read_text(encoding="utf-8")
    # transformers compares the class with the one that it reads config.json by.
    (out / f"{_SHIPPED}.py").write_text(code.replace("Qwen3Config", f"{layout.capitalize()}Config"), encoding="utf-8")
    path = out / CONFIG_FILE
    config = json.loads(path.read_text())
    config["auto_map"] = {"AutoModelForMaskedLM": f"{_SHIPPED}.QuicksilverForMaskedLM"}
    path.write_text(json.dumps(config, indent=2) + "\n")


def _tokenizer_config(special: SpecialIds, tokenizer: Tokenizer, max_length: int) -> dict[str, object]:
    roles = {"pad_token": special.filler, "eos_token": special.eos, "mask_token": special.mask}
    known = set(tokenizer.special.values())
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        **{role: tokenizer.name_of(token) for role, token in roles.items() if token in known},
        "clean_up_tokenization_spaces": False,
        # As in this package: the name of a special token in a text is text.
        "split_special_tokens": True,
    }
