"""The twin in other engines, greedily and under the same limits as in ours; part of ``engine.py``."""

import importlib.util
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from speed import CACHED, CachedTwin, Filled, Loop, most_tokens, prompt_of

from quicksilver.api import Model
from quicksilver.checkpoints.gguf import export_gguf
from quicksilver.errors import ConfigError
from quicksilver.evaluation.suites.filling import InfillItem
from quicksilver.tokenization.special import SPECIAL_TOKENS

GENERATE = "twin, transformers.generate"
LLAMA = {"twin, llama.cpp q8_0": "q8_0", "twin, llama.cpp f32": "f32"}
"""Number format of the weights by loop; activations of q8_0 are rounded to 8 bits too, the cache is f16 in both."""


def rivals(
    model: Model, folder: Path, device: str, dtype: torch.dtype, *, is_one_line: bool
) -> tuple[dict[str, Loop], list[str]]:
    """The twin elsewhere, by name, and what was left out and why. llama.cpp computes on the CPU, as its files say."""
    loops: dict[str, Loop] = {}
    eos = model.spec.special.eos
    # A line end is a token of its own.
    ends = [eos, model.tokenizer.newline_id] if is_one_line else [eos]
    left_out = []
    if importlib.util.find_spec("transformers") is None:
        left_out.append("transformers: pip install 'quicksilver-lm[hf]'")
    else:
        for name, kind in ((CACHED, TypedCachedTwin), (GENERATE, GeneratingTwin)):
            loops[name] = kind(model, folder, device, dtype, ends)
    if importlib.util.find_spec("llama_cpp") is None:
        left_out.append("llama.cpp: pip install llama-cpp-python 'quicksilver-lm[gguf]'")
        return loops, left_out
    for name, weights in LLAMA.items():
        try:
            loops[name] = LlamaTwin(model, folder, weights, ends)
        except ConfigError as error:
            left_out.append(f"{name}: {error}")
    return loops, left_out


class TypedCachedTwin(CachedTwin):
    """A loop over transformers' cache, in any number format."""

    def __init__(self, model: Model, folder: Path, device: str, dtype: torch.dtype, ends: list[int]) -> None:
        super().__init__(model, folder, device, ends)
        self._network = self._network.to(dtype)


class GeneratingTwin(TypedCachedTwin):
    """``generate`` of transformers, which is what most people call."""

    @torch.inference_mode()
    def __call__(self, item: InfillItem) -> Filled:
        spec = self._api.spec
        inputs = torch.tensor([prompt_of(self._api, item)], device=self._device)
        network: Any = self._network
        start = time.perf_counter()
        output = network.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=most_tokens(self._api),
            do_sample=False,
            suppress_tokens=self._banned.tolist(),
            eos_token_id=self._ends,
            pad_token_id=spec.special.pad,
        )
        written = output[0, inputs.shape[1] :].tolist()
        seconds = time.perf_counter() - start
        kept = [token for token in written if token not in self._ends]
        return Filled(self._api.tokenizer.decode(kept), len(kept), len(written), seconds)


class LlamaTwin:
    """llama.cpp through its Python binding: the binding evaluates, llama.cpp's own sampler chooses.

    ``Llama.generate`` does the same with one more copy of the logits per token.
    """

    def __init__(self, model: Model, folder: Path, dtype: str, ends: list[int]) -> None:
        """Export the twin's folder in ``dtype`` and load that."""
        import llama_cpp  # pyright: ignore[reportMissingImports]

        self._api, self._library, self._ends = model, llama_cpp, ends
        threads = torch.get_num_threads()
        with TemporaryDirectory() as scratch:
            file = Path(scratch) / "twin.gguf"
            export_gguf(folder, file, dtype=dtype)
            self._llama: Any = llama_cpp.Llama(
                model_path=str(file),
                n_ctx=model.max_length,
                n_threads=threads,
                n_threads_batch=threads,
                use_mmap=False,
                verbose=False,
            )
        self._choose = self._greedy_sampler([i for i in range(len(SPECIAL_TOKENS)) if i != model.spec.special.eos])

    def _greedy_sampler(self, banned: list[int]) -> Any:  # noqa: ANN401  # the binding's pointer
        lib = self._library
        biases = [lib.llama_logit_bias(token=token, bias=-float("inf")) for token in banned]
        sampler = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        array = (lib.llama_logit_bias * len(biases))(*biases)
        lib.llama_sampler_chain_add(
            sampler, lib.llama_sampler_init_logit_bias(self._llama.n_vocab(), len(biases), array)
        )
        lib.llama_sampler_chain_add(sampler, lib.llama_sampler_init_greedy())
        return sampler

    def __call__(self, item: InfillItem) -> Filled:
        room = most_tokens(self._api)
        pending, written, first = prompt_of(self._api, item), [], None
        start = time.perf_counter()
        self._llama.reset()
        while len(written) < room and not (written and written[-1] in self._ends):
            self._llama.eval(pending)
            written.append(self._library.llama_sampler_sample(self._choose, self._llama.ctx, -1))
            first = first or time.perf_counter() - start
            pending = written[-1:]
        seconds = time.perf_counter() - start
        kept = [token for token in written if token not in self._ends]
        return Filled(self._api.tokenizer.decode(kept), len(kept), len(written), seconds, first)
