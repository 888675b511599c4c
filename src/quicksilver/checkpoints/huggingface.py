"""Export to a folder that ``transformers`` loads without this package."""

import json
import shutil
from pathlib import Path

import torch

from quicksilver.checkpoints.folder import CHAT_TEMPLATE_FILE, DTYPES, TOKENIZER_FILE, save_folder
from quicksilver.checkpoints.loading import load_folder
from quicksilver.diffusion.spec import SpecialIds
from quicksilver.errors import CheckpointError, UsageError
from quicksilver.tokenization.special import SPECIAL_TOKENS


def export_folder(folder: Path, out: Path, *, dtype: str) -> None:
    """Copy a checkpoint folder into ``out`` with weights in ``dtype`` and the tokenizer files of ``transformers``.

    Raises:
        CheckpointError: ``folder`` is no whole checkpoint.
        UsageError: ``out`` exists and is not empty, or cannot be written, or ``dtype`` is unknown.
    """
    if dtype not in DTYPES:
        raise UsageError(f"no dtype {dtype!r}; known: {', '.join(DTYPES)}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} exists and is not an empty folder")
    if not (folder / TOKENIZER_FILE).is_file():
        raise CheckpointError(f"{folder} lacks {TOKENIZER_FILE}")
    denoiser, spec = load_folder(folder, torch.float32)
    try:
        save_folder(out, denoiser, spec, DTYPES[dtype])
        shutil.copyfile(folder / TOKENIZER_FILE, out / TOKENIZER_FILE)
        config = _tokenizer_config(spec.special, denoiser.config.max_length)
        (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
        for name in ("README.md", CHAT_TEMPLATE_FILE):
            if (folder / name).is_file():
                shutil.copyfile(folder / name, out / name)
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error}") from error


def _tokenizer_config(special: SpecialIds, max_length: int) -> dict[str, object]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "pad_token": SPECIAL_TOKENS[special.filler],
        "eos_token": SPECIAL_TOKENS[special.eos],
        "mask_token": SPECIAL_TOKENS[special.mask],
        "clean_up_tokenization_spaces": False,
        # As in this package: the name of a special token in a text is text.
        "split_special_tokens": True,
    }
