"""The character task: one text, four objectives (mask, uniform, hybrid, autoregressive) at equal size and steps.

Legend: R rows (windows of text), L characters of a window, V symbols of the text plus four special tokens.

Windows are scored on their own: no objective sees text outside its window. Mask, uniform and hybrid noise cover it
under full attention; the autoregressive model reads a start token and all characters but the last.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from quicksilver.diffusion.counter_rng import counter_uniform
from quicksilver.diffusion.estimator import Weighting, draw_counts, mask_exact_count, stratified_uniforms, token_weights
from quicksilver.diffusion.hybrid import HybridNoise
from quicksilver.diffusion.interpolating import InterpolatingNoise
from quicksilver.diffusion.likelihood import mask_bound
from quicksilver.diffusion.prediction import LeaveOneOutPrediction
from quicksilver.diffusion.protocol import LogitsFn
from quicksilver.diffusion.schedules import LinearSchedule
from quicksilver.diffusion.spec import DiffusionSpec, Objective, SpecialIds
from quicksilver.diffusion.uniform import UniformNoise
from quicksilver.errors import ConfigError
from quicksilver.models.attention import plan_attention
from quicksilver.models.denoiser import Denoiser
from quicksilver.models.topology import Topology
from quicksilver.training.batch import LossSums, MicroBatch, cross_entropy_sums
from quicksilver.training.lr_schedule import WarmupStableDecay

NUM_SPECIAL = 4
_TRAIN_SHARE = 0.9
_MIN_TIME = 1e-3
"""Training times lie in [1e-3, 1 - 1e-3]: the bounds' weights diverge at the ends."""
_WINDOW_STREAM = 0x77696E646F777331


class CharacterText:
    """A text as ids: its symbols in code point order, nanoGPT's split into the first 90 % and the rest."""

    def __init__(self, text: str) -> None:
        self.symbols = "".join(sorted(set(text)))
        ids = np.searchsorted(np.array(list(self.symbols)), np.array(list(text)))
        cut = int(len(ids) * _TRAIN_SHARE)
        self.train, self.validation = torch.from_numpy(ids[:cut]), torch.from_numpy(ids[cut:])

    @property
    def vocab_size(self) -> int:
        """Symbols and special tokens."""
        return len(self.symbols) + NUM_SPECIAL

    def special(self) -> SpecialIds:
        """Ids above the symbols. The mask comes first, so that symbols and mask are the first ids of all."""
        first = len(self.symbols)
        return SpecialIds(mask=first, pad=first + 1, eos=first + 2, file=first + 3)


def read_text(path: Path) -> CharacterText:
    """Read a UTF-8 file; raises ConfigError if there is none."""
    if not path.is_file():
        raise ConfigError(f"no text {path}")
    return CharacterText(path.read_text(encoding="utf-8"))


def make_noise(spec: DiffusionSpec) -> InterpolatingNoise:
    """The noise of a uniform or hybrid checkpoint; the first ``special.mask`` ids are the symbols."""
    mask_id = spec.special.mask
    match spec.objective:
        case Objective.UNIFORM:
            return UniformNoise(LinearSchedule(), vocab_size=mask_id)
        case Objective.HYBRID:
            return HybridNoise(mask_id + 1, mask_id, uniform_fraction=spec.noise.uniform_fraction)
        case _:
            raise ConfigError(f"objective {spec.objective} has no times")


@dataclass(frozen=True, slots=True)
class NoisyBatch(MicroBatch):
    """Windows under uniform or hybrid noise, with their times; every position carries loss."""

    times: Float[Tensor, "R L"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CharactersTaskConfig:
    """Text, windows and noise weights."""

    text: Path
    length: int = 128
    batch_size: int = 32
    """Windows per step, all ranks together."""
    rows_per_forward: int = 32
    weighting: Weighting = Weighting.CLIPPED
    """Of masked characters, for ``Objective.MASK``."""
    num_validation_windows: int = 16

    def __post_init__(self) -> None:
        if min(self.length, self.batch_size, self.rows_per_forward, self.num_validation_windows) < 1:
            raise ConfigError(f"lengths and counts must be at least 1: {self}")

    def build(self, spec: DiffusionSpec, schedule: WarmupStableDecay, seed: int) -> "CharactersTask":
        """Read the text."""
        del schedule
        return CharactersTask(self, spec, seed)


class CharactersTask:
    """Builds the micro-batches of every step from (seed, step); all objectives see the same windows."""

    def __init__(self, config: CharactersTaskConfig, spec: DiffusionSpec, seed: int) -> None:
        self._config, self._spec, self._seed = config, spec, seed
        self._text = read_text(config.text)
        if spec.special != self._text.special():
            raise ConfigError(f"the text needs the special ids {self._text.special()}, the spec has {spec.special}")
        has_times = spec.objective in (Objective.UNIFORM, Objective.HYBRID)
        self._noise = make_noise(spec) if has_times else None

    @property
    def bytes_per_token(self) -> float:
        """Characters per token: the reported bits are per character."""
        return 1.0

    def micro_batches(self, step: int, rank: int, num_ranks: int) -> list[MicroBatch]:
        """This rank's share of the step's windows; the union over ranks does not depend on their number."""
        config = self._config
        rows = torch.arange(config.batch_size)
        start = counter_uniform(self._seed, step, _WINDOW_STREAM, rows) * (len(self._text.train) - config.length)
        windows = self._text.train[start.long()[:, None] + torch.arange(config.length)]
        uniforms = stratified_uniforms(config.batch_size, 1, seed=self._seed, step=step)
        draws = counter_uniform(self._seed, step * config.batch_size + rows[:, None], torch.arange(config.length))
        mine = rows[rank::num_ranks].split(config.rows_per_forward)
        return [self._micro_batch(windows[part], uniforms[part], draws[part]) for part in mine]

    def _micro_batch(self, windows: Tensor, uniforms: Tensor, draws: Tensor) -> MicroBatch:
        if self._noise is not None:
            return noisy_batch(windows, _MIN_TIME + (1 - 2 * _MIN_TIME) * uniforms, draws, self._noise)
        if self._spec.objective is Objective.MASK:
            return masked_batch(windows, uniforms, draws, self._spec.special.mask, self._config.weighting)
        return autoregressive_batch(windows, self._start_id)

    @property
    def _start_id(self) -> int:
        return start_id(self._spec)

    def loss(self, denoiser: Denoiser, batch: MicroBatch) -> LossSums:
        """Cross-entropy, or for noise that leaves no trace the weighted divergence of the bound."""
        if self._noise is None or not isinstance(batch, NoisyBatch):
            return cross_entropy_sums(denoiser, batch)
        hidden = denoiser(batch.token_ids, batch.positions, plan_attention(batch.topology))
        logits = denoiser.logits(hidden)[..., : self._noise.vocab_size]
        prediction = LeaveOneOutPrediction.from_logits(logits, self._noise.mask_id)
        x_0, z, t = batch.labels.view_as(batch.token_ids), batch.token_ids, batch.times
        bound = self._noise.nelbo(prediction, x_0, z, t)
        loss = bound
        if isinstance(self._noise, HybridNoise):
            # The bound's own weights explode at both ends of time (GIDD, arXiv:2503.04482, section 4).
            loss = self._noise.dynamic_weights(x_0, z, t) * self._noise.divergence(prediction, x_0, z, t)
        return LossSums(loss.sum().float(), bound.detach().sum().float())

    def validate(self, denoiser: Denoiser) -> dict[str, float]:
        """A rough figure on a few validation windows: ``score`` is the careful one."""
        windows = validation_windows(self._text, self._config.length)[: self._config.num_validation_windows]
        nats = score(denoiser, self._spec, windows, num_times=16, seed=self._seed)
        return {"validation_bits_per_character": float(nats.mean()) / self._config.length / math.log(2)}

    def export_extras(self, folder: Path) -> None:
        """Write the symbols, which are the tokenizer."""
        (folder / "symbols.txt").write_text(self._text.symbols, encoding="utf-8")


def start_id(spec: DiffusionSpec) -> int:
    """The token an autoregressive window starts with."""
    if spec.special.file is None:
        raise ConfigError("an autoregressive character model needs the special token file")
    return spec.special.file


def validation_windows(text: CharacterText, length: int) -> Int[Tensor, "R L"]:
    """The validation split cut into windows side by side; a shorter rest is left out."""
    count = len(text.validation) // length
    return text.validation[: count * length].view(count, length)


def masked_batch(
    windows: Int[Tensor, "R L"],
    uniforms: Float[Tensor, "R 1"],
    scores: Float[Tensor, "R L"],
    mask_id: int,
    weighting: Weighting,
) -> MicroBatch:
    """Mask exactly k of the L characters of every window, k = floor(u L) + 1."""
    everywhere = torch.ones_like(windows, dtype=torch.bool)
    sizes = torch.full_like(windows[:, :1], windows.shape[1])
    counts = draw_counts(uniforms, sizes)
    is_masked = mask_exact_count(torch.zeros_like(windows), everywhere, counts, scores)

    def at_masks(weighting: Weighting) -> Tensor:
        return token_weights(counts, sizes, weighting).float().expand_as(windows)[is_masked]

    return MicroBatch(
        token_ids=windows.masked_fill(is_masked, mask_id),
        positions=_positions(windows),
        topology=_full_attention(windows.shape[1]),
        target_rows=is_masked.flatten().nonzero()[:, 0],
        labels=windows[is_masked],
        weights=at_masks(weighting),
        bound_weights=at_masks(Weighting.ELBO),
        num_targets=windows.numel(),
        num_bound_targets=windows.numel(),
    )


def noisy_batch(
    windows: Int[Tensor, "R L"], times: Float[Tensor, "R 1"], draws: Float[Tensor, "R L"], noise: InterpolatingNoise
) -> NoisyBatch:
    """Noise every window at its own time."""
    each = torch.ones(windows.numel())
    expanded = times.expand(windows.shape).contiguous()
    return NoisyBatch(
        token_ids=noise.q_sample(windows, expanded, draws),
        positions=_positions(windows),
        topology=_full_attention(windows.shape[1]),
        target_rows=torch.arange(windows.numel()),
        labels=windows.flatten(),
        weights=each,
        bound_weights=each,
        num_targets=windows.numel(),
        num_bound_targets=windows.numel(),
        times=expanded,
    )


def autoregressive_batch(windows: Int[Tensor, "R L"], start: int) -> MicroBatch:
    """Predict every character of a window from the start token and those before it."""
    each = torch.ones(windows.numel())
    return MicroBatch(
        token_ids=torch.cat([torch.full_like(windows[:, :1], start), windows[:, :-1]], dim=1),
        positions=_positions(windows),
        topology=Topology.block_causal(torch.arange(windows.shape[1])[None]),
        target_rows=torch.arange(windows.numel()),
        labels=windows.flatten(),
        weights=each,
        bound_weights=each,
        num_targets=windows.numel(),
        num_bound_targets=windows.numel(),
    )


class WindowLogits:
    """A character denoiser as likelihoods ask for it: all of a window is one block."""

    def __init__(self, denoiser: Denoiser, num_symbols: int) -> None:
        self._denoiser, self._num_symbols = denoiser, num_symbols

    def __call__(
        self, noisy_ids: Int[Tensor, "B L"], clean_ids: Int[Tensor, "B L"], block_length: int
    ) -> Float[Tensor, "B L V"]:
        length = noisy_ids.shape[1]
        if block_length != length:
            raise ConfigError(f"a character model denoises windows as a whole, not blocks of {block_length}")
        hidden = self._denoiser(noisy_ids, _positions(noisy_ids), plan_attention(_full_attention(length)))
        return self._denoiser.logits(hidden)[..., : self._num_symbols]


@torch.no_grad()
def score(
    denoiser: Denoiser, spec: DiffusionSpec, windows: Int[Tensor, "R L"], *, num_times: int = 32, seed: int = 0
) -> Float[Tensor, " R"]:
    """Nats per window: exact for the autoregressive objective, an unbiased estimate of the upper bound for the others.

    Masks: the exact-count bound, one count from each of 16 strata. Uniform and hybrid noise: the continuous-time bound,
    see ``timed_bound``. Windows draw independently, so the spread of their mean holds the estimator's noise.
    """
    everywhere = torch.ones_like(windows, dtype=torch.bool)
    length, mask_id = windows.shape[1], spec.special.mask
    match spec.objective:
        case Objective.AUTOREGRESSIVE:
            batch = autoregressive_batch(windows, start_id(spec))
            logits = denoiser.logits(denoiser(batch.token_ids, batch.positions, plan_attention(batch.topology)))
            return -logits.double().log_softmax(-1).gather(-1, windows[..., None])[..., 0].sum(1)
        case Objective.MASK:
            logits_fn = WindowLogits(denoiser, mask_id + 1)
            return mask_bound(logits_fn, windows, everywhere, block_length=length, mask_id=mask_id, seed=seed).nats
        case _:
            noise = make_noise(spec)
            return timed_bound(WindowLogits(denoiser, noise.vocab_size), noise, windows, num_times=num_times, seed=seed)


def timed_bound(
    logits_fn: LogitsFn, noise: InterpolatingNoise, windows: Int[Tensor, "R L"], *, num_times: int, seed: int
) -> Float[Tensor, " R"]:
    """Unbiased estimate of the bound under uniform or hybrid noise, nats per window, from ``num_times`` forwards.

    Times are t = u^2 with u stratified over [1e-4, 1 - 1e-4]. Uniform times, as in ``likelihood.noise_bound``, have the
    same mean, but under hybrid noise a flipped character at small t weighs 1 / t and occurs with probability sqrt(t):
    their variance has no limit.
    """
    length, low, span = windows.shape[1], 1e-4, 1 - 2e-4
    rows, positions = torch.arange(windows.shape[0])[:, None], torch.arange(length)
    nats = torch.zeros(windows.shape[0], dtype=torch.float64)
    for point in range(num_times):
        u = low + span * (point + counter_uniform(seed, rows, point)) / num_times
        t = (u**2).expand(windows.shape)
        z = noise.q_sample(windows, t, counter_uniform(seed, rows, point, positions))
        prediction = LeaveOneOutPrediction.from_logits(logits_fn(z, windows, length), noise.mask_id)
        nats += (2 * u * noise.nelbo(prediction, windows, z, t)).sum(1) * span / num_times
    return nats


def unigram_bits(text: CharacterText) -> float:
    """Bits per character of the validation split under the training split's symbol frequencies (plus one each)."""
    counts = torch.bincount(text.train, minlength=len(text.symbols)).double() + 1
    return float(-(counts / counts.sum()).log2()[text.validation].mean())


def _positions(windows: Tensor) -> Tensor:
    return torch.arange(windows.shape[1]).expand_as(windows)


def _full_attention(length: int) -> Topology:
    # One row: it broadcasts over the batch.
    return Topology.block_causal(torch.zeros(1, length, dtype=torch.int64))
