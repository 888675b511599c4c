"""Bits per byte of held-out packages, beside what ``xz`` needs.

An item is a file, with those of its windows that were drawn; see ``likelihood`` for windows and readings.
``bits_per_byte`` is the bound of a diffusion checkpoint and exact for an autoregressive one; other readings that a
checkpoint has are named (``bits_per_byte_chain``).
"""

import lzma
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from quicksilver.errors import ConfigError
from quicksilver.evaluation import likelihood
from quicksilver.evaluation.bootstrap import Interval
from quicksilver.evaluation.documents import Corpus
from quicksilver.evaluation.likelihood import LikelihoodConfig, Reading, Share, Window
from quicksilver.evaluation.sampling import subsample
from quicksilver.evaluation.subject import Answer, Subject
from quicksilver.evaluation.subjects.engine import EngineSubject
from quicksilver.evaluation.suite import Mark

DEFAULT_CONTEXT = 512
"""Positions of a window, the ``<file>`` token included: what the bundled models were trained on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileItem:
    """A file's drawn windows."""

    item_id: str
    """``package/path``."""
    rows: tuple[int, ...]
    """Places among all drawn windows."""
    num_bytes: int
    """Of these windows, UTF-8."""


class LikelihoodSuite:
    """The suite ``lm``; only a checkpoint in this process can be asked, because the windows are token ids."""

    name = "lm"
    headline = "bits_per_byte"

    def __init__(
        self,
        corpus: Corpus,
        config: LikelihoodConfig,
        *,
        count: int | None = None,
        context: int = DEFAULT_CONTEXT,
    ) -> None:
        """Cut and draw windows.

        Args:
            corpus: the split.
            config: block length, draws of the bound, and the seed of both the masks and the sample.
            count: random windows; None: all.
            context: positions of a window.

        Raises:
            ConfigError: there are fewer windows than that, or none.
        """
        self._corpus, self._config, self._context = corpus, config, context
        self._readers: set[str] = set()
        cut = likelihood.cut_windows(corpus.documents, corpus.bytes_of_token, context)
        self._windows = subsample(cut, count, config.seed)
        by_file: dict[int, list[int]] = {}
        for row, window in enumerate(self._windows):
            by_file.setdefault(window.document, []).append(row)
        self._items = tuple(self._item(document, by_file[document]) for document in sorted(by_file))

    def _item(self, document: int, rows: Sequence[int]) -> FileItem:
        num_bytes = sum(self._windows[row].num_bytes for row in rows)
        return FileItem(item_id=self._corpus.documents.doc_name(document), rows=tuple(rows), num_bytes=num_bytes)

    def about(self) -> Mapping[str, object]:
        config = self._config
        return {
            "suite": self.name,
            **self._corpus.identity,
            "windows": len(self._windows),
            "context": self._context,
            "block_length": config.block_length,
            "draws": config.num_samples,
            "masks_seed": config.seed,
        }

    def items(self) -> tuple[FileItem, ...]:
        return self._items

    def ask(self, subject: Subject, item: FileItem, seed: int, temperature: float) -> Answer:
        """Seed and temperature are of answers in words; that of the masks is the suite's."""
        model = self._require_reader(subject).model
        windows = [self._windows[row] for row in item.rows]
        share = Share.of(self._windows, item.rows, self._config)
        found, nfe, start = {}, 0, time.perf_counter()
        for reading in likelihood.readings(model.spec):
            nats = likelihood.window_nats(
                model.engine.denoiser, model.spec, windows, reading, self._config, share=share
            )
            nfe += _num_batches(windows, self._config) * likelihood.num_forwards(windows[:1], reading, self._config)
            found[reading.value] = tuple(map(float, nats.sum(axis=1)))
        seconds = time.perf_counter() - start
        return Answer(texts=(), num_tokens=0, nfe=nfe, seconds=seconds, finish_reason="read", nats=found)

    def _require_reader(self, subject: Subject) -> EngineSubject:
        if not isinstance(subject, EngineSubject):
            raise ConfigError(f"suite lm reads likelihoods of checkpoints in this process, and {subject.name} is none")
        if subject.name not in self._readers:  # hashing takes longer than a short file's forward
            if subject.model.tokenizer.fingerprint != self._corpus.tokenizer_fingerprint:
                raise ConfigError(f"the corpus was written with another tokenizer than that of {subject.name}")
            self._readers.add(subject.name)
        return subject

    def judge(self, answered: Iterable[tuple[FileItem, Answer]]) -> Iterator[Mark]:
        for item, answer in answered:
            own = Reading.BOUND if Reading.BOUND in answer.nats else Reading.EXACT
            ratios = {
                "bits_per_byte" if reading == own else f"bits_per_byte_{reading}": (
                    float(np.mean(draws)) / math.log(2),
                    float(item.num_bytes),
                )
                for reading, draws in answer.nats.items()
            }
            yield Mark(values={}, ratios=ratios, labels={"package": item.item_id.split("/", 1)[0]})

    def sum_up(self, answered: Sequence[tuple[FileItem, Answer]]) -> Mapping[str, Interval]:
        """The standard error from the bound's random masks alone; and ``xz -9e``.

        ``xz`` sees whole files and all earlier ones, not one window, so it has the advantage.
        """
        found = {f"xz_bits_per_byte{name}": value for name, value in self._compressed().items()}
        bounds = np.array([answer.nats[Reading.BOUND] for _, answer in answered if Reading.BOUND in answer.nats])
        if len(bounds) and bounds.shape[1] > 1:
            draws = bounds.sum(axis=0) / math.log(2) / sum(item.num_bytes for item, _ in answered)
            found["sampling_error"] = float(draws.std(ddof=1) / np.sqrt(len(draws)))
        return {name: Interval(value=value, low=value, high=value) for name, value in found.items()}

    def _compressed(self) -> dict[str, float]:
        packages: dict[str, list[bytes]] = {}
        for source in self._corpus.sources():
            packages.setdefault(source.name.split("/", 1)[0], []).append(source.text.encode())
        parts = {"": [text for texts in packages.values() for text in texts]}
        parts |= {f"/package={name}": texts for name, texts in sorted(packages.items())}
        return {name: _xz(b"".join(texts)) for name, texts in parts.items()}


def _num_batches(windows: Sequence[Window], config: LikelihoodConfig) -> int:
    return -(-len(windows) // config.batch_size)


def _xz(data: bytes) -> float:
    return 8 * len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)) / len(data)
