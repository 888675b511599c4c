"""Token files from a folder of texts, by any tokenizer: what a checkpoint with a tokenizer of its own is trained on."""

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from quicksilver.checkpoints.folder import TOKENIZER_FILE
from quicksilver.errors import CorpusError, InputError
from quicksilver.tokenization.foreign import load_foreign, load_tokenizer
from quicksilver.tokenization.tokenizer import Tokenizer
from quicksilver.training.corpus.progress import BuildProgress, SilentProgress
from quicksilver.training.corpus.token_file import (
    MAX_VOCAB_SIZE,
    TOKEN_DTYPE,
    WIDE_TOKEN_DTYPE,
    TokenFile,
    write_token_file,
)

TOKENIZER_FILES = (TOKENIZER_FILE, "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
"""Of a checkpoint folder."""
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
        CheckpointError: ``model`` has no tokenizer that can be read.
        CorpusError: fewer than two files.
        InputError: a file is no UTF-8 text.
    """
    tokenizer = load_tokenizer(model) if (model / TOKENIZER_FILE).is_file() else load_foreign(model)
    paths = [path for path in texts.rglob(f"*{suffix}") if path.is_file()]
    paths.sort(key=lambda path: hashlib.sha256(path.relative_to(texts).as_posix().encode()).digest())
    if len(paths) < 2:
        raise CorpusError(f"{texts} holds {len(paths)} files that end in {suffix!r}; training and validation need two")
    num_held_out = max(1, round(validation * len(paths)))
    dtype = TOKEN_DTYPE if tokenizer.vocab_size <= MAX_VOCAB_SIZE else WIDE_TOKEN_DTYPE
    progress = progress or SilentProgress()
    out.mkdir(parents=True, exist_ok=True)
    written = {}
    for split, part in (("train", paths[num_held_out:]), ("validation", paths[:num_held_out])):
        progress.start(f"Tokenizing {split}", len(part))
        written[split] = write_token_file(out, split, _tokenized(texts, part, tokenizer, progress), dtype)
    tokenizer.save(out / TOKENIZER_FILE)
    for name in TOKENIZER_FILES:
        if (model / name).is_file():
            shutil.copyfile(model / name, out / name)
    return written


def _tokenized(
    texts: Path, paths: Sequence[Path], tokenizer: Tokenizer, progress: BuildProgress
) -> Iterator[tuple[str, int, list[int]]]:
    for at in range(0, len(paths), _BATCH_FILES):
        batch = paths[at : at + _BATCH_FILES]
        read = [_text(path) for path in batch]
        for path, text, token_ids in zip(batch, read, tokenizer.encode_batch(read), strict=True):
            yield path.relative_to(texts).as_posix(), len(text.encode("utf-8")), token_ids
        progress.advance(len(batch), batch[-1].name)


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no UTF-8 text: {error}; leave it out, for example by a suffix") from error
