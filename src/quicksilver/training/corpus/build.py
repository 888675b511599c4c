"""The build: lock to wheels to stage files to manifest, notice, tokenizer and token files.

Everything is written below one folder; ``meta.json`` comes last, so a folder that has it is complete.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

from quicksilver.errors import ConfigError, CorpusError
from quicksilver.tokenization.tokenizer import Tokenizer
from quicksilver.tokenization.train import DEFAULT_VOCAB_SIZE, train_tokenizer
from quicksilver.training.corpus.extract import Document, Stage, extract_package, is_staged, read_stage
from quicksilver.training.corpus.lock import LockedPackage, Profile, Split, read_lock
from quicksilver.training.corpus.notice import render_notice
from quicksilver.training.corpus.progress import BuildProgress, SilentProgress
from quicksilver.training.corpus.selection import Selection, select_documents
from quicksilver.training.corpus.token_file import MAX_VOCAB_SIZE, write_token_file
from quicksilver.training.corpus.wheels import default_wheel_cache, fetch_wheels

TOKENIZER_SAMPLE_BYTES = 40_000_000
"""Training text the tokenizer sees, chosen by hash order; more changes its merges little and takes longer."""

_BATCH_BYTES = 2_000_000
"""Text that is tokenized at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildConfig:
    """What to build, from what, and where."""

    profile: Profile
    out: Path
    """Folder of the corpus; made if it is not there."""
    wheels: Path | None = None
    """Folder with the wheels; missing ones are downloaded into it. None: ``default_wheel_cache()``."""
    lock: Path | None = None
    """Another lock than the committed one."""
    tokenizer: Path | None = None
    """A ``tokenizer.json`` to use; None trains one on the training split."""
    vocab_size: int = DEFAULT_VOCAB_SIZE
    """Of a tokenizer that is trained; at most 65,536."""
    jobs: int = 1
    """Processes that read wheels; above 1, a calling script needs the ``__main__`` guard of multiprocessing."""

    def __post_init__(self) -> None:
        if not 1 <= self.vocab_size <= MAX_VOCAB_SIZE:
            raise ConfigError(f"vocab_size must be in [1, {MAX_VOCAB_SIZE}], got {self.vocab_size}")
        if self.jobs < 1:
            raise ConfigError(f"jobs must be at least 1, got {self.jobs}")


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitSize:
    """Size of one split."""

    documents: int
    bytes: int
    """UTF-8 bytes of the text."""
    tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusMeta:
    """What was built; the content of ``meta.json``."""

    corpus_id: str
    """sha256 of ``manifest.tsv``."""
    expected_corpus_id: str | None
    """What the lock says it should be; None when the lock does not say."""
    profile: str
    lock_sha256: str
    tokenizer_fingerprint: str
    vocab_size: int
    splits: dict[str, SplitSize]
    dropped: dict[str, int]
    """Files of the wheels that are not in the corpus, by reason."""


def build_corpus(config: BuildConfig, progress: BuildProgress | None = None) -> CorpusMeta:
    """Build a corpus; what an earlier, interrupted build has finished is not done again.

    Raises:
        CorpusError: a wheel is missing or has another hash than the lock says.
        CheckpointError: ``config.tokenizer`` cannot be used.
        OSError: ``config.out`` cannot be written.
    """
    progress = progress or SilentProgress()
    lock = read_lock(config.lock)
    packages = lock.of_profile(config.profile)
    if not packages:
        raise CorpusError(f"the lock has no packages of profile {config.profile}")
    wheels = config.wheels if config.wheels is not None else default_wheel_cache()
    stage_folder = config.out / "stages"
    stage_folder.mkdir(parents=True, exist_ok=True)
    (config.out / "meta.json").unlink(missing_ok=True)
    fetch_wheels([package for package in packages if not is_staged(package, stage_folder)], wheels, progress)
    _extract_all(packages, wheels, stage_folder, config.jobs, progress)
    stages = [(package, read_stage(package, stage_folder)) for package in packages]
    selection = select_documents([(package, stage.documents) for package, stage in stages])
    corpus_id = _write_manifest(config.out, selection)
    notice = render_notice((package, stage.licences) for package, stage in stages)
    (config.out / "NOTICE").write_text(notice, encoding="utf-8")
    tokenizer = _make_tokenizer(config, selection, progress)
    sizes = {
        split.value: _write_split(config.out, split, documents, tokenizer, progress)
        for split, documents in selection.documents.items()
    }
    meta = CorpusMeta(
        corpus_id=corpus_id,
        expected_corpus_id=lock.corpus_ids.get(config.profile),
        profile=config.profile.value,
        lock_sha256=lock.digest,
        tokenizer_fingerprint=tokenizer.fingerprint,
        vocab_size=tokenizer.vocab_size,
        splits=sizes,
        dropped=_count_dropped([stage for _, stage in stages], selection),
    )
    _write_whole(config.out / "meta.json", json.dumps(asdict(meta), indent=2) + "\n")
    return meta


def _extract_all(
    packages: Sequence[LockedPackage], wheels: Path, stages: Path, jobs: int, progress: BuildProgress
) -> None:
    progress.start("Reading wheels", len(packages))
    if jobs == 1:
        for package in packages:
            extract_package(package, wheels, stages)
            progress.advance(1, package.package)
        return
    # spawn: the calling process may have threads (progress display, tokenizer, torch), which do not survive a fork.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        # The largest wheels first, so that no process is left alone with one at the end.
        largest_first = sorted(packages, key=lambda package: -_size(wheels / package.wheel))
        running = {pool.submit(extract_package, package, wheels, stages): package for package in largest_first}
        try:
            for done in as_completed(running):
                done.result()
                progress.advance(1, running[done].package)
        except CorpusError:
            pool.shutdown(cancel_futures=True)
            raise


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _write_manifest(folder: Path, selection: Selection) -> str:
    lines = sorted(
        f"{document.package}\t{document.path}\t{document.sha256}\t{document.num_bytes}\t{split.value}\n"
        for split, documents in selection.documents.items()
        for document in documents
    )
    text = "".join(lines)
    _write_whole(folder / "manifest.tsv", text)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _make_tokenizer(config: BuildConfig, selection: Selection, progress: BuildProgress) -> Tokenizer:
    if config.tokenizer is not None:
        tokenizer = Tokenizer.load(config.tokenizer)
        if tokenizer.vocab_size > MAX_VOCAB_SIZE:
            raise ConfigError(
                f"{config.tokenizer} has {tokenizer.vocab_size} ids, at most {MAX_VOCAB_SIZE} are possible"
            )
    else:
        sample = _tokenizer_sample(selection.documents[Split.TRAIN])
        progress.start("Training the tokenizer", len(sample))
        tokenizer = train_tokenizer(_reported(sample, progress), config.vocab_size)
    tokenizer.save(config.out / "tokenizer.json")
    return tokenizer


def _tokenizer_sample(documents: Sequence[Document]) -> list[Document]:
    sample: list[Document] = []
    total = 0
    for document in sorted(documents, key=lambda document: document.sha256):
        if total >= TOKENIZER_SAMPLE_BYTES:
            break
        sample.append(document)
        total += document.num_bytes
    return sample


def _reported(documents: Sequence[Document], progress: BuildProgress) -> Iterator[str]:
    for document in documents:
        yield document.text
        progress.advance(1, document.package)


def _write_split(
    folder: Path, split: Split, documents: Sequence[Document], tokenizer: Tokenizer, progress: BuildProgress
) -> SplitSize:
    progress.start(f"Tokenizing {split.value}", len(documents))

    def tokenized() -> Iterator[tuple[str, int, list[int]]]:
        for batch in _batches(documents):
            encoded = tokenizer.encode_batch([document.text for document in batch])
            for document, tokens in zip(batch, encoded, strict=True):
                yield f"{document.package}/{document.path}", document.num_bytes, tokens
            progress.advance(len(batch), batch[-1].package)

    written = write_token_file(folder, split.value, tokenized())
    return SplitSize(documents=written.num_docs, bytes=int(written.doc_bytes.sum()), tokens=written.num_tokens)


def _batches(documents: Sequence[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    total = 0
    for document in documents:
        batch.append(document)
        total += document.num_bytes
        if total >= _BATCH_BYTES:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch


def _count_dropped(stages: Sequence[Stage], selection: Selection) -> dict[str, int]:
    total = Counter(selection.dropped)
    for stage in stages:
        total.update(stage.dropped)
    return dict(sorted(total.items()))


def _write_whole(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8", newline="\n")
    os.replace(partial, path)
