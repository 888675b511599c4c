"""The twin in other engines, greedily and under the same limits as in ours; part of ``engine.py``."""

import importlib.util
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from speed import CACHED, CachedTwin, Filled, Loop, most_tokens, prompt_of

from quicksilver.api import Model
from quicksilver.checkpoints.gguf import export_gguf
from quicksilver.errors import ConfigError
from quicksilver.evaluation.subject import Ask
from quicksilver.evaluation.subjects.llamacpp import LlamaCppWriter
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
        left_out.append("llama.cpp: pip install 'quicksilver-lm[llama,gguf]'")
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
    """llama.cpp through its Python binding."""

    def __init__(self, model: Model, folder: Path, dtype: str, ends: list[int]) -> None:
        """Export the twin's folder in ``dtype`` and load that."""
        self._api, self._ends = model, ends
        with TemporaryDirectory() as scratch:
            file = Path(scratch) / "twin.gguf"
            export_gguf(folder, file, dtype=dtype)
            banned = [index for index in range(len(SPECIAL_TOKENS)) if index != model.spec.special.eos]
            self._writer = LlamaCppWriter.open(file, forbidden=banned)

    def __call__(self, item: InfillItem) -> Filled:
        prompt, first = prompt_of(self._api, item), None
        start = time.perf_counter()

        def is_over(written: Sequence[int]) -> bool:
            nonlocal first
            first = first or time.perf_counter() - start
            return written[-1] in self._ends

        written = self._writer.write(prompt, most_tokens(self._api), Ask(seed=0), is_over)
        seconds = time.perf_counter() - start
        kept = [token for token in written if token not in self._ends]
        return Filled(self._api.tokenizer.decode(kept), len(kept), len(written), seconds, first)
