"""Import: a published folder becomes one of our own, in another dtype or quantized."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from quicksilver.checkpoints.folder import (
    CHAT_TEMPLATE_FILE,
    DTYPES,
    TOKENIZER_FILE,
    require_new_folder,
    write_config,
)
from quicksilver.checkpoints.loading import Progress, load_folder, open_folder, require_quantizable
from quicksilver.checkpoints.sharded import INDEX_FILE, WEIGHTS_FILE
from quicksilver.errors import ConfigError, UsageError
from quicksilver.models.denoiser import Denoiser
from quicksilver.quantization import Scheme
from quicksilver.quantization.convert import projections
from quicksilver.quantization.stored import stored_parts
from quicksilver.tokenization.foreign import foreign_chat_template, load_foreign

SHARD_BYTES = 2 * 2**30
"""Most of one file."""
_KEPT_FILES = ("README.md", "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "tokenizer_config.json")
"""What its makers say of a model travels with it."""


def import_folder(
    source: Path,
    out: Path,
    *,
    dtype: str | None = None,
    scheme: Scheme | None = None,
    progress: Progress | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a folder of our own that needs the source no more.

    The source's tensors stay mapped from its files; one at a time is converted.

    Args:
        source: of a known family.
        out: new or empty.
        dtype: of the weights, by name; None: as they are stored. With a scheme, of what is not quantized.
        scheme: how the projections are quantized, for the CPU; None: not at all.
        progress: told the bytes read so far and those of all weights.
        shard_bytes: most of one file.

    Raises:
        CheckpointError: the source is no whole checkpoint of a known family, or ``out`` holds files.
        ConfigError: the dtype is unknown, or the scheme does not suit it or the widths.
        UsageError: ``out`` cannot be written.
    """
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"no dtype {dtype!r}; known: {', '.join(DTYPES)}")
    opened = open_folder(source)
    if opened.family is None:
        raise ConfigError(f"{source} is a folder of our own already; quicksilver export writes it in other formats")
    require_new_folder(out)
    tokenizer = load_foreign(source)
    denoiser, spec = load_folder(source, None)
    stored = denoiser.model.embed_tokens.weight.dtype
    target = stored if dtype is None else DTYPES[dtype]
    name = next(name for name, known in DTYPES.items() if known is target)
    if scheme is not None:
        require_quantizable(denoiser, scheme, target, torch.device("cpu"))
    try:
        out.mkdir(parents=True, exist_ok=True)
        _write_shards(out, _tensors(denoiser, target, scheme, progress), shard_bytes)
        write_config(out, denoiser.config, spec, name, scheme)
        tokenizer.save(out / TOKENIZER_FILE)
        _copy_texts(source, out)
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error}") from error


def _tensors(
    denoiser: Denoiser, dtype: torch.dtype, scheme: Scheme | None, progress: Progress | None
) -> Iterator[tuple[str, Tensor]]:
    quantized = {f"{name}.weight": linear for name, linear in projections(denoiser).items()} if scheme else {}
    weights, done = denoiser.state_dict(), 0
    total = sum(value.nbytes for value in weights.values())
    for name, value in weights.items():
        if scheme is not None and name in quantized:
            plain = nn.Linear(value.shape[1], value.shape[0], bias=False, device="meta")
            plain.weight = nn.Parameter(value.to(dtype), requires_grad=False)
            for part, tensor in stored_parts(plain, scheme).items():
                yield f"{name}.{part}", tensor.contiguous()
        else:
            yield name, value.to(dtype).contiguous()
        done += value.nbytes
        if progress is not None:
            progress(done, total)


def _write_shards(out: Path, tensors: Iterator[tuple[str, Tensor]], limit: int) -> None:
    """Files of at most ``limit`` bytes, or of one tensor, by Hugging Face's names; an index if there are several."""
    files: list[tuple[Path, list[str]]] = []
    waiting: dict[str, Tensor] = {}
    sizes = 0

    def write() -> None:
        nonlocal sizes
        path = out / f"part-{len(files)}.safetensors"
        save_file(waiting, path, metadata={"format": "pt"})
        files.append((path, list(waiting)))
        waiting.clear()
        sizes = 0

    total = 0
    for name, tensor in tensors:
        if waiting and sizes + tensor.nbytes > limit:
            write()
        waiting[name] = tensor
        sizes += tensor.nbytes
        total += tensor.nbytes
    write()
    if len(files) == 1:
        files[0][0].rename(out / WEIGHTS_FILE)
        return
    places: dict[str, str] = {}
    for number, (path, names) in enumerate(files, start=1):
        final = f"model-{number:05}-of-{len(files):05}.safetensors"
        path.rename(out / final)
        places.update(dict.fromkeys(names, final))
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (out / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n")


def _copy_texts(source: Path, out: Path) -> None:
    for name in _KEPT_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)
    template = source / CHAT_TEMPLATE_FILE
    text = template.read_text(encoding="utf-8") if template.is_file() else foreign_chat_template(source)
    if text is not None:
        (out / CHAT_TEMPLATE_FILE).write_text(text, encoding="utf-8")
