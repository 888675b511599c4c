"""llama.cpp through llama-cpp-python: what people run small autoregressive models with on a CPU.

The binding evaluates and llama.cpp's own sampler chooses; ``Llama.generate`` does the same with one more copy of the
logits per token.
"""

import hashlib
import importlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import torch

from quicksilver.errors import CheckpointError, ConfigError
from quicksilver.evaluation.subject import Ask
from quicksilver.evaluation.subjects.causal import BEGINS_FILE, CausalSubject, Sentinels, Vocabulary

_LONGEST_SEED = 2**32
"""llama.cpp's seeds have 32 bits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LlamaCppWriter:
    """A GGUF file in llama.cpp, on the CPU with torch's number of threads."""

    library: Any
    """The module ``llama_cpp``."""
    llama: Any
    """Its ``Llama``."""
    forbidden: tuple[int, ...]

    @classmethod
    def open(cls, file: Path, *, forbidden: Iterable[int] | None = None) -> Self:
        """Load a file with the context it was trained for.

        Args:
            file: GGUF.
            forbidden: ids that are never written; None: the file's control tokens that end nothing.

        Raises:
            CheckpointError: llama.cpp cannot read the file.
            ConfigError: llama-cpp-python is not installed.
        """
        library, threads = _library(), torch.get_num_threads()
        if not file.is_file():
            raise CheckpointError(f"no file {file}")
        try:
            llama = library.Llama(
                model_path=str(file),
                n_ctx=0,
                n_threads=threads,
                n_threads_batch=threads,
                use_mmap=False,
                verbose=False,
            )
        except ValueError as error:
            raise CheckpointError(f"llama.cpp cannot read {file}: {error}") from error
        writer = cls(library=library, llama=llama, forbidden=())
        chosen = writer.unwritten() if forbidden is None else forbidden
        return cls(library=library, llama=llama, forbidden=tuple(chosen))

    @property
    def vocab(self) -> Any:  # noqa: ANN401  # the binding's pointer
        return self.library.llama_model_get_vocab(self.llama.model)

    def ends(self) -> set[int]:
        """Ids that end a text."""
        return {index for index in range(self.llama.n_vocab()) if self.library.llama_vocab_is_eog(self.vocab, index)}

    def unwritten(self) -> list[int]:
        """Control tokens that end nothing."""
        ends, is_control = self.ends(), self.library.llama_vocab_is_control
        return [each for each in range(self.llama.n_vocab()) if is_control(self.vocab, each) and each not in ends]

    def write(
        self, prompt: Sequence[int], most: int, ask: Ask, is_over: Callable[[Sequence[int]], bool]
    ) -> Sequence[int]:
        sampler = self._sampler(ask)
        written: list[int] = []
        try:
            self.llama.reset()
            pending = list(prompt)
            while len(written) < most:
                self.llama.eval(pending)
                written.append(self.library.llama_sampler_sample(sampler, self.llama.ctx, -1))
                if is_over(written):
                    break
                pending = written[-1:]
        finally:
            self.library.llama_sampler_free(sampler)
        return written

    def _sampler(self, ask: Ask) -> Any:  # noqa: ANN401  # the binding's pointer
        lib = self.library
        chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        biases = [lib.llama_logit_bias(token=token, bias=-float("inf")) for token in self.forbidden]
        array = (lib.llama_logit_bias * len(biases))(*biases)
        lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_logit_bias(self.llama.n_vocab(), len(biases), array))
        if ask.temperature == 0:
            lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_greedy())
        else:
            lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_temp(ask.temperature))
            lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_dist(ask.seed % _LONGEST_SEED))
        return chain


def _library() -> Any:  # noqa: ANN401  # a module
    if find_spec("llama_cpp") is None:
        raise ConfigError("a subject llama.cpp:FILE needs llama-cpp-python: pip install 'quicksilver-lm[llama]'")
    return importlib.import_module("llama_cpp")


def llama_cpp_subject(file: Path, *, context: int | None = None) -> CausalSubject:
    """A GGUF file in llama.cpp, as ``quicksilver export --format gguf`` writes one of an autoregressive checkpoint.

    Texts are cut into tokens by llama.cpp, which has no rule that is exactly this project's tokenizer's
    (docs/decisions/0008-gguf.md): numbers behind a space come out differently.

    Args:
        file: GGUF.
        context: most tokens it sees, if fewer than it was trained for.

    Raises:
        CheckpointError: llama.cpp cannot read the file.
        ConfigError: llama-cpp-python is not installed.
    """
    writer = LlamaCppWriter.open(file)
    # The context that llama.cpp makes of it is rounded up.
    trained = writer.library.llama_model_n_ctx_train(writer.llama.model)
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    return CausalSubject(
        name=f"{file.stem} in llama.cpp",
        writer=writer,
        vocabulary=_vocabulary(writer),
        max_length=min(trained, context or trained),
        identity={
            "engine": "llama.cpp",
            "engine_version": f"llama-cpp-python {writer.library.__version__}",
            "file": file.name,
            "model_sha256": digest,
            "threads": torch.get_num_threads(),
        },
    )


def _vocabulary(writer: LlamaCppWriter) -> Vocabulary:
    lib, llama, vocab = writer.library, writer.llama, writer.vocab
    prefix, suffix, middle = (
        find(vocab) for find in (lib.llama_vocab_fim_pre, lib.llama_vocab_fim_suf, lib.llama_vocab_fim_mid)
    )
    begin = lib.llama_vocab_bos(vocab) if lib.llama_vocab_get_add_bos(vocab) else None

    def encode(text: str) -> list[int]:
        return llama.tokenize(text.encode("utf-8"), add_bos=False, special=False)

    def decode(ids: Sequence[int]) -> str:
        return llama.detokenize(list(ids)).decode("utf-8", errors="replace")

    named = llama.tokenize(BEGINS_FILE.encode(), add_bos=False, special=True)
    is_ours = len(named) == 1 and lib.llama_vocab_is_control(vocab, named[0])
    return Vocabulary(
        encode=encode,
        decode=decode,
        newline_id=encode("\n")[-1],
        begin=named[0] if is_ours else begin,
        hole_begin=begin,
        # llama.cpp knows the sentinels of a file by its metadata, or by their names; -1: there are none.
        sentinels=None if min(prefix, suffix, middle) < 0 else Sentinels(prefix=prefix, suffix=suffix, middle=middle),
        ends=frozenset(writer.ends()),
        forbidden=frozenset(writer.forbidden),
    )
