"""The twin in other engines, greedily and under the same limits as in ours; part of ``engine.py``."""

import time
from pathlib import Path
from typing import Any

import torch
from speed import CachedTwin, Filled

from quicksilver.api import Model
from quicksilver.evaluation.suites import InfillItem
from quicksilver.tokenization.special import SPECIAL_TOKENS

GENERATE = "twin, transformers.generate"
LLAMA = "twin, llama.cpp q8_0"


class TypedCachedTwin(CachedTwin):
    """A loop over transformers' cache, in any number format."""

    def __init__(self, model: Model, folder: Path, device: str, dtype: torch.dtype) -> None:
        super().__init__(model, folder, device)
        self._network = self._network.to(dtype)


class GeneratingTwin(TypedCachedTwin):
    """``generate`` of transformers, which is what most people call."""

    @torch.inference_mode()
    def __call__(self, item: InfillItem) -> Filled:
        spec = self._api.spec
        room = min(spec.decoding.max_hole_length, self._api.max_length // 2)
        inputs = torch.tensor([self._prompt(item, room)], device=self._device)
        network: Any = self._network
        start = time.perf_counter()
        output = network.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=room,
            do_sample=False,
            suppress_tokens=self._banned.tolist(),
            eos_token_id=spec.special.eos,
            pad_token_id=spec.special.pad,
        )
        written = output[0, inputs.shape[1] :].tolist()
        seconds = time.perf_counter() - start
        kept = [token for token in written if token != spec.special.eos]
        return Filled(self._api.tokenizer.decode(kept), len(kept), len(written), seconds)


class LlamaTwin:
    """llama.cpp by its Python binding."""

    def __init__(self, model: Model, file: Path) -> None:
        """Load a GGUF file of the twin, whose token ids are this tokenizer's."""
        import llama_cpp  # pyright: ignore[reportMissingImports]

        self._api = model
        self._llama: Any = llama_cpp.Llama(
            model_path=str(file), n_ctx=model.max_length, n_threads=torch.get_num_threads(), verbose=False
        )
        self._banned = [i for i in range(len(SPECIAL_TOKENS)) if i != model.spec.special.eos]
        self._prompts = CachedTwin._prompt

    def __call__(self, item: InfillItem) -> Filled:
        spec = self._api.spec
        room = min(spec.decoding.max_hole_length, self._api.max_length // 2)
        prompt = self._prompts(self, item, room)  # pyright: ignore[reportArgumentType]
        start = time.perf_counter()
        written: list[int] = []
        self._llama.reset()
        tokens = self._llama.generate(prompt, temp=0.0, reset=True, logits_processor=self._forbid)
        for token in tokens:
            written.append(token)
            if token == spec.special.eos or len(written) >= room:
                break
        seconds = time.perf_counter() - start
        kept = [token for token in written if token != spec.special.eos]
        return Filled(self._api.tokenizer.decode(kept), len(kept), len(written), seconds)

    def _forbid(self, _: object, scores: Any) -> Any:  # noqa: ANN401  # numpy arrays of the binding
        scores[self._banned] = -float("inf")
        return scores
