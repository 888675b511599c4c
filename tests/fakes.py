"""Denoisers without a network, for tests of decoding. All satisfy ``CanvasLogits``."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from quicksilver.decoding.canvas import State
from quicksilver.decoding.protocol import CanvasLogits
from quicksilver.decoding.window import Window
from quicksilver.diffusion.counter_rng import counter_bits, counter_uniform
from quicksilver.diffusion.spec import DecodingDefaults, DiffusionSpec, Layout, NoiseRates, Objective, SpecialIds


class UniformDenoiser:
    """Knows nothing: all logits are zero."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def __call__(self, token_ids: Int[Tensor, " L"], block_ids: Int[Tensor, " L"]) -> Float[Tensor, "L V"]:
        return torch.zeros(token_ids.shape[0], self.vocab_size)


class ScriptedDenoiser:
    """Predicts ``target[i]`` at position i with probability ``confidence[i]``, whatever the canvas holds.

    Positions beyond the target predict ``target[-1]``. The rest of the probability is spread evenly.
    """

    def __init__(self, target: Sequence[int], confidence: Sequence[float], vocab_size: int) -> None:
        self.target, self.confidence, self.vocab_size = list(target), list(confidence), vocab_size

    def __call__(self, token_ids: Int[Tensor, " L"], block_ids: Int[Tensor, " L"]) -> Float[Tensor, "L V"]:
        rows = []
        for position in range(token_ids.shape[0]):
            token = self.target[min(position, len(self.target) - 1)]
            confidence = self.confidence[min(position, len(self.confidence) - 1)]
            row = torch.full((self.vocab_size,), (1 - confidence) / (self.vocab_size - 1))
            row[token] = confidence
            rows.append(row.log())
        return torch.stack(rows)


class HashDenoiser:
    """Logits drawn from a hash of what every position may see: a function of canvas and topology with no structure.

    ``sharpness`` scales the logits; ``bonus`` is added to the logits of single tokens.
    """

    def __init__(
        self, vocab_size: int, seed: int = 0, sharpness: float = 6.0, bonus: dict[int, float] | None = None
    ) -> None:
        self.vocab_size, self.seed, self.sharpness, self.bonus = vocab_size, seed, sharpness, bonus or {}

    def __call__(self, token_ids: Int[Tensor, " L"], block_ids: Int[Tensor, " L"]) -> Float[Tensor, "L V"]:
        position = torch.arange(token_ids.shape[0])
        words = counter_bits(self.seed, position, token_ids)
        visible = block_ids[None, :] <= block_ids[:, None]
        # A wrapping sum over the visible words is a hash that does not depend on what is hidden.
        key = (visible * words[None, :]).sum(dim=-1)
        uniform = counter_uniform(self.seed, key[:, None], position[:, None], torch.arange(self.vocab_size)[None, :])
        logits = (uniform * self.sharpness).float()
        for token, bonus in self.bonus.items():
            logits[:, token] += bonus
        return logits


class CountingDenoiser:
    """Counts the forwards of another denoiser and keeps the canvases it was shown."""

    def __init__(self, inner: CanvasLogits) -> None:
        self.inner = inner
        self.canvases: list[list[int]] = []
        self.block_ids: list[list[int]] = []

    @property
    def num_calls(self) -> int:
        return len(self.canvases)

    def __call__(self, token_ids: Int[Tensor, " L"], block_ids: Int[Tensor, " L"]) -> Float[Tensor, "L V"]:
        self.canvases.append(token_ids.tolist())
        self.block_ids.append(block_ids.tolist())
        return self.inner(token_ids, block_ids)


SPECIAL = SpecialIds(
    pad=0, eos=1, mask=2, expand=3, delete=4, fim_prefix=5, fim_suffix=6, fim_middle=7, canvas=8, file=9
)
"""Ids 10 and up are text."""


def fake_spec(
    objective: Objective = Objective.MASK,
    block_length: int = 4,
    layouts: tuple[Layout, ...] = (Layout.BLOCK_CAUSAL, Layout.IN_PLACE),
    hole_length: int = 3,
    max_hole_length: int = 6,
    edit_rate: float = 0.1,
    has_length_noise: bool = True,
) -> DiffusionSpec:
    """A checkpoint that was trained for everything."""
    return DiffusionSpec(
        objective=objective,
        special=SPECIAL,
        layouts=layouts,
        block_length=block_length,
        noise=NoiseRates(edit_rate=edit_rate, has_length_noise=has_length_noise),
        decoding=DecodingDefaults(hole_length=hole_length, max_hole_length=max_hole_length),
    )


def random_window(seed: int, num_rows: int, width: int, levels: int = 20) -> Window:
    """A window of random numbers in which ties, rows without masks and rows of masks only all occur."""
    random = torch.Generator().manual_seed(seed)

    def whole(high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=random)

    shape = (num_rows, width)
    state = whole(4, *shape).to(torch.int8)
    state[whole(8, num_rows) == 0] = State.MASK
    state[whole(8, num_rows) == 0] = State.DRAFT
    step = whole(8, num_rows)
    return Window(
        token_ids=10 + whole(4, *shape),
        state=state,
        candidate_ids=10 + whole(4, *shape),
        argmax_ids=10 + whole(2, *shape),
        previous_argmax_ids=10 + whole(2, *shape),
        confidence=whole(levels + 1, *shape) / levels,
        margin=whole(levels + 1, *shape) / levels,
        entropy=whole(levels + 1, *shape) / (4 * levels),
        commit_confidence=whole(levels + 1, *shape) / levels,
        num_edits=whole(4, *shape),
        positions=torch.arange(width).expand(shape) + whole(100, num_rows)[:, None],
        seed=whole(1000, num_rows),
        step=step,
        num_masks=(state == State.MASK).sum(dim=-1) + whole(3, num_rows) * (step > 0),
        num_post_steps=whole(4, num_rows),
        holds_ends=torch.ones(num_rows, dtype=torch.bool),
    )
