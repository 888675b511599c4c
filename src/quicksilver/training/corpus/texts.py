"""Token files from a folder of texts, by any tokenizer: what a checkpoint with a tokenizer of its own is trained on."""

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import tokenizers

from quicksilver.errors import CheckpointError, CorpusError, InputError
from quicksilver.training.corpus.progress import BuildProgress, SilentProgress
from quicksilver.training.corpus.token_file import (
    MAX_VOCAB_SIZE,
    TOKEN_DTYPE,
    WIDE_TOKEN_DTYPE,
    TokenFile,
    write_token_file,
)

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
"""Of a model folder; the first one must be there."""
_BATCH_FILES = 256


def tokenize_texts(
    texts: Path,
    model: Path,
    out: Path,
    *,
    suffix: str = "",
    validation: float = 0.02,
    progress: BuildProgress | None = None,
) -> dict[str, TokenFile]:
    """Write the splits ``train`` and ``validation`` of the files below a folder, and copy the tokenizer beside them.

    Which files are validation follows from a hash of their names, so it stays when others come in or go.

    Args:
        texts: searched with all its subfolders; a file is a document.
        model: folder with the tokenizer.
        out: made if it is missing; token files in it are replaced.
        suffix: of the files that are taken, for example ``.py``; all if empty.
        validation: share of the files, at least one.
        progress: told after every few files.

    Raises:
        CheckpointError: ``model`` has no tokenizer.json that can be read.
        CorpusError: fewer than two files.
        InputError: a file is no UTF-8 text.
    """
    backend = _tokenizer(model / TOKENIZER_FILES[0])
    paths = [path for path in texts.rglob(f"*{suffix}") if path.is_file()]
    paths.sort(key=lambda path: hashlib.sha256(path.relative_to(texts).as_posix().encode()).digest())
    if len(paths) < 2:
        raise CorpusError(f"{texts} holds {len(paths)} files that end in {suffix!r}; training and validation need two")
    num_held_out = max(1, round(validation * len(paths)))
    is_wide = backend.get_vocab_size() > MAX_VOCAB_SIZE
    progress = progress or SilentProgress()
    out.mkdir(parents=True, exist_ok=True)
    written = {}
    for split, part in (("train", paths[num_held_out:]), ("validation", paths[:num_held_out])):
        progress.start(f"Tokenizing {split}", len(part))
        documents = _tokenized(texts, part, backend, progress)
        written[split] = write_token_file(out, split, documents, WIDE_TOKEN_DTYPE if is_wide else TOKEN_DTYPE)
    for name in TOKENIZER_FILES:
        if (model / name).is_file():
            shutil.copyfile(model / name, out / name)
    return written


def _tokenizer(path: Path) -> tokenizers.Tokenizer:
    if not path.is_file():
        raise CheckpointError(f"{path.parent} lacks {path.name}")
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise CheckpointError(f"{path} is not a tokenizer: {error}") from error
    backend.encode_special_tokens = True  # the name of a special token in a text is text
    return backend


def _tokenized(
    texts: Path, paths: Sequence[Path], backend: tokenizers.Tokenizer, progress: BuildProgress
) -> Iterator[tuple[str, int, list[int]]]:
    for at in range(0, len(paths), _BATCH_FILES):
        batch = paths[at : at + _BATCH_FILES]
        read = [_text(path) for path in batch]
        for path, text, encoding in zip(
            batch, read, backend.encode_batch_fast(read, add_special_tokens=False), strict=True
        ):
            yield path.relative_to(texts).as_posix(), len(text.encode("utf-8")), encoding.ids
        progress.advance(len(batch), batch[-1].name)


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no UTF-8 text: {error}; leave it out, for example by a suffix") from error
