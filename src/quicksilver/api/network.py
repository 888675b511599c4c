"""Denoisers behind the two seams that see logits: decoding's ``CanvasLogits`` and likelihood's ``LogitsFn``."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from quicksilver.diffusion.autoregressive import align_predictions
from quicksilver.diffusion.block import block_grid, prediction_rows, training_pair
from quicksilver.diffusion.spec import DiffusionSpec
from quicksilver.models.attention import Attention, DenseAttention
from quicksilver.models.denoiser import Denoiser
from quicksilver.models.layers import CanvasRows
from quicksilver.models.topology import Topology


class FullRecompute:
    """``CanvasLogits``: one forward over the whole canvas, no cache."""

    def __init__(self, denoiser: Denoiser, prediction_shift: int) -> None:
        """Wrap a denoiser whose row i is about token i + ``prediction_shift``."""
        self._denoiser = denoiser
        self._shift = prediction_shift
        self._attention: tuple[bytes, DenseAttention] | None = None

    @torch.inference_mode()
    def __call__(self, token_ids: Int[Tensor, " L"], block_ids: Int[Tensor, " L"]) -> Float[Tensor, "L V"]:
        """Logits of the token at every position; all zero, that is uniform, where nothing predicts it."""
        return align_predictions(self.raw(token_ids, block_ids)[None], self._shift)[0]

    @torch.inference_mode()
    def raw(self, token_ids: Int[Tensor, " L"], block_ids: Int[Tensor, " L"]) -> Float[Tensor, "L V"]:
        """Row i as the network gives it."""
        device = self._denoiser.model.embed_tokens.weight.device
        positions = torch.arange(len(token_ids), device=device)
        hidden = self._denoiser(token_ids[None].to(device), positions[None], self._attention_over(block_ids.to(device)))
        return self._denoiser.logits(hidden[0])

    def _attention_over(self, block_ids: Tensor) -> DenseAttention:
        # Consecutive steps of one block share their topology, and its mask costs as much as a small layer.
        key = block_ids.cpu().numpy().tobytes()
        if self._attention is None or self._attention[0] != key:
            self._attention = key, DenseAttention(Topology.block_causal(block_ids[None]))
        return self._attention[1]


class ConditionedRecompute(FullRecompute):
    """``ConditionedLogits`` of a denoiser that tells rows of a canvas from those of final tokens."""

    def raw(self, token_ids: Int[Tensor, " L"], block_ids: Int[Tensor, " L"]) -> Float[Tensor, "L V"]:
        """The first step of the last block."""
        return self.with_predicted(token_ids, block_ids, None)

    @torch.inference_mode()
    def with_predicted(
        self, token_ids: Int[Tensor, " L"], block_ids: Int[Tensor, " L"], predicted: Float[Tensor, "W V"] | None
    ) -> Float[Tensor, "L V"]:
        """Logits of the token at every position, see ``ConditionedLogits``; only those of the last block mean it."""
        weight = self._denoiser.model.embed_tokens.weight
        is_canvas = (block_ids == block_ids[-1])[None].to(weight.device)
        if predicted is None:
            embedded = weight.new_zeros(int(is_canvas.sum()), weight.shape[1])
        else:
            embedded = self._denoiser.mean_embedding(predicted.to(weight.device))
        positions = torch.arange(len(token_ids), device=weight.device)
        hidden = self._denoiser(
            token_ids[None].to(weight.device),
            positions[None],
            self._attention_over(block_ids.to(weight.device)),
            CanvasRows(is_canvas, embedded),
        )
        return self._denoiser.logits(hidden[0])


def recompute(denoiser: Denoiser, prediction_shift: int) -> FullRecompute:
    """The ``CanvasLogits`` that suits a denoiser."""
    kind = ConditionedRecompute if denoiser.config.has_canvas_pass else FullRecompute
    return kind(denoiser, prediction_shift)


class StaleRecompute(FullRecompute):
    """``StaleLogits``: every row is computed, and those that are stale are seen as they were. Slow, for comparison."""

    def __init__(self, denoiser: Denoiser, prediction_shift: int) -> None:
        """Wrap a denoiser whose row i is about token i + ``prediction_shift``."""
        super().__init__(denoiser, prediction_shift)
        self._kept: list[tuple[Tensor, Tensor]] = []
        """Keys and values of every layer."""

    @torch.inference_mode()
    def with_stale(
        self, token_ids: Int[Tensor, " L"], block_ids: Int[Tensor, " L"], is_computed: Bool[Tensor, " L"]
    ) -> Float[Tensor, "L V"]:
        """Logits of the token at every position, see ``StaleLogits``."""
        if bool(is_computed.all()):
            self._kept.clear()
        device = self._denoiser.model.embed_tokens.weight.device
        attention = _StaleAttention(self._attention_over(block_ids.to(device)), self._kept, is_computed.to(device))
        positions = torch.arange(len(token_ids), device=device)
        hidden = self._denoiser(token_ids[None].to(device), positions[None], attention)
        return align_predictions(self._denoiser.logits(hidden[0])[None], self._shift)[0]


class _StaleAttention:
    """Attention that replaces the keys and values of stale rows by those that were kept, and keeps the others."""

    def __init__(
        self, attention: Attention, kept: list[tuple[Tensor, Tensor]], is_computed: Bool[Tensor, " T"]
    ) -> None:
        self._attention, self._kept, self._layer = attention, kept, 0
        self._is_computed = is_computed[:, None]

    def __call__(
        self,
        query: Float[Tensor, "1 H T K"],
        key: Float[Tensor, "1 G T K"],
        value: Float[Tensor, "1 G T K"],
        window: int | None = None,
    ) -> Float[Tensor, "1 H T K"]:
        if self._layer == len(self._kept):
            self._kept.append((key, value))
        seen = [
            torch.where(self._is_computed, *pair) for pair in zip((key, value), self._kept[self._layer], strict=True)
        ]
        self._kept[self._layer] = (seen[0], seen[1])
        self._layer += 1
        return self._attention(query, seen[0], seen[1], window)


class PairLogits:
    """``LogitsFn``: all blocks at once by the forward over [noisy ⊕ clean] that training uses."""

    def __init__(self, denoiser: Denoiser, spec: DiffusionSpec) -> None:
        """Wrap a denoiser trained as ``spec`` says."""
        self._denoiser = denoiser
        self._spec = spec

    @torch.inference_mode()
    def __call__(
        self, noisy_ids: Int[Tensor, "B L"], clean_ids: Int[Tensor, "B L"], block_length: int
    ) -> Float[Tensor, "B L V"]:
        num_rows, length = noisy_ids.shape
        blocks = block_grid(num_rows, length, block_length).to(noisy_ids.device)
        positions = torch.arange(length, device=noisy_ids.device).expand(num_rows, -1)
        pair = training_pair(noisy_ids, clean_ids, positions, blocks)
        topology = Topology.training_pair(
            blocks, torch.zeros_like(blocks), has_causal_context=self._spec.has_causal_context
        )
        attention = DenseAttention(topology)
        hidden = self._denoiser(pair.token_ids, pair.positions, attention)
        predicting = prediction_rows(blocks, self._spec.prediction_shift)
        logits = self._denoiser.logits(hidden.gather(1, predicting[..., None].expand(-1, -1, hidden.shape[2])))
        if self._spec.prediction_shift:
            logits[:, 0] = 0.0  # nothing predicts token 0: uniform, as ``align_predictions`` has it
        return logits
