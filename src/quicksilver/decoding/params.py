"""What one request asks of the sampler."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool
from torch import Tensor

from quicksilver.constraints.automaton import TokenAutomaton
from quicksilver.decoding.alternatives import MAX_ALTERNATIVES
from quicksilver.decoding.ends import Ends
from quicksilver.decoding.guidance import Guidance
from quicksilver.decoding.kept_rows import Cache
from quicksilver.decoding.policies import Policy
from quicksilver.decoding.policy_names import make_policy
from quicksilver.decoding.revisions import edits_tokens
from quicksilver.diffusion.spec import DiffusionSpec, Objective
from quicksilver.errors import ConfigError

DEFAULT_MAX_TOKENS = 256
MAX_BIAS = 100.0
"""As in the OpenAI API."""
MAX_REPETITION_PENALTY = 100.0
MAX_PENALTY = 2.0
"""Of presence and frequency, as in the OpenAI API."""


@runtime_checkable
class StopRule(Protocol):
    """Decides from the response so far whether it ends; built where tokens have a text."""

    def __call__(self, token_ids: Sequence[int]) -> int | None:
        """How many of the tokens remain if the response is to end here, else None.

        Args:
            token_ids: the response from its beginning, final tokens only, without eos.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingParams:
    """One request's choices; None leaves one to the checkpoint's ``DecodingDefaults`` or switches a limit off."""

    policy: Policy | None = None
    """Must be None for an autoregressive checkpoint."""
    temperature: float | None = None
    """0 is greedy."""
    seed: int = 0
    """In [0, 2**63)."""
    max_tokens: int | None = None
    """Tokens to generate, eos included; None: ``DEFAULT_MAX_TOKENS``.

    Must be None for in-place infill, where every hole states its own limit."""
    block_length: int | None = None
    """None: the spec's. Must be None for an autoregressive checkpoint and for in-place infill, which have no blocks."""
    max_nfe: int | None = None
    """At this forward all open masks are committed and decoding ends. None: as many as the policy needs."""
    top_k: int | None = None
    top_p: float | None = None
    vocab_size: int | None = None
    """Needed, and read, only when the canvas starts as uniform noise: random tokens are drawn below it."""
    forbidden_ids: tuple[int, ...] = ()
    """Never written, beyond the special tokens named in the spec: for example a tokenizer's reserved ids."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Token ids and what is added to their logits, in [-100, 100]. What is never written stays so."""
    repetition_penalty: float = 1.0
    """Divides the positive logits of tokens that are visible on the canvas, prompt included, and multiplies the
    negative ones; in [0.01, 100], above 1 discourages. See ``adjustments``."""
    presence_penalty: float = 0.0
    """Subtracted from the logits of tokens that this request has written and that are visible; in [-2, 2]."""
    frequency_penalty: float = 0.0
    """The same, once for every time that the token is visible; in [-2, 2]."""
    stop_ids: tuple[int, ...] = ()
    """Any of these ends the response as eos does, and is not part of it. Must be empty for in-place infill."""
    stop: StopRule | None = None
    """Asked whenever a block (autoregressive: a token; in place: any run of tokens) has become final."""
    draft_threshold: float = 0.5
    """Read where a hole has a draft: its tokens below this probability are found anew; in [0, 1], 0 keeps all."""
    cache: Cache = Cache.EXACT
    """Which rows a forward computes where every position sees every other one; see ``kept_rows``. Anything but
    ``exact`` is an approximation. Must be ``exact`` elsewhere: there what is kept is final, and always kept."""
    refresh_every: int | None = None
    """Every so many forwards all rows are computed, 1: always. None: at the first forward of a block, or of holes, and
    after a hole has changed its length. Must be None where ``cache`` is ``exact``."""
    ends: Ends | None = None
    """How a block is written that may hold eos; None: the checkpoint's way. Read where a prompt is continued."""
    constraint: TokenAutomaton | None = None
    """What the response must be, see ``constrained``. It ends by eos within ``max_tokens``. Must be None for in-place
    infill, where every hole has its own."""
    guidance: Guidance | None = None
    """What moves the logits before anything else does."""
    num_alternatives: int = 0
    """How many of the likeliest tokens are kept beside each written one, see ``Result.alternatives``; in [0, 20]."""

    def __post_init__(self) -> None:
        if self.temperature is not None and not self.temperature >= 0:
            raise ConfigError(f"temperature must not be negative, got {self.temperature}")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed must lie in [0, 2**63), got {self.seed}")
        for name in ("max_tokens", "block_length", "max_nfe", "top_k", "vocab_size", "refresh_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p must lie in (0, 1], got {self.top_p}")
        _within("draft_threshold", self.draft_threshold, 0.0, 1.0)
        if not 0 <= self.num_alternatives <= MAX_ALTERNATIVES:
            raise ConfigError(f"num_alternatives must lie in [0, {MAX_ALTERNATIVES}], got {self.num_alternatives}")
        never_written = sorted(set(self.stop_ids) & set(self.forbidden_ids))
        if never_written:
            raise ConfigError(f"stop_ids and forbidden_ids share {never_written}, which would never be written")
        if self.refresh_every is not None and self.cache is Cache.EXACT:
            raise ConfigError(
                f"refresh_every ({self.refresh_every}) says how long a cache keeps what it holds, and cache exact "
                f"keeps nothing; choose cache {', '.join(each for each in Cache if each is not Cache.EXACT)}"
            )
        self._check_adjustments()

    def _check_adjustments(self) -> None:
        biased = [token for token, _ in self.logit_bias]
        if len(set(biased)) != len(biased):
            raise ConfigError(f"logit_bias names a token id more than once: {self.logit_bias}")
        for token, value in self.logit_bias:
            _within(f"logit_bias of token id {token}", value, -MAX_BIAS, MAX_BIAS)
        _within("repetition_penalty", self.repetition_penalty, 1 / MAX_REPETITION_PENALTY, MAX_REPETITION_PENALTY)
        _within("presence_penalty", self.presence_penalty, -MAX_PENALTY, MAX_PENALTY)
        _within("frequency_penalty", self.frequency_penalty, -MAX_PENALTY, MAX_PENALTY)

    @property
    def adjusts_logits(self) -> bool:
        """Whether a step needs ``adjustments``."""
        has_penalty = self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0
        return bool(self.logit_bias) or has_penalty

    def check_vocabulary(self, vocab_size: int) -> None:
        """Raise ConfigError if a token id of ``logit_bias`` or ``stop_ids`` is outside the vocabulary."""
        named = {"logit_bias": [token for token, _ in self.logit_bias], "stop_ids": self.stop_ids}
        for name, ids in named.items():
            for token in ids:
                if not 0 <= token < vocab_size:
                    raise ConfigError(f"{name}: token id {token} is outside the vocabulary of {vocab_size}")


def _within(name: str, value: float, least: float, most: float) -> None:
    # Written so that NaN fails too.
    if not least <= value <= most:
        raise ConfigError(f"{name} must lie in [{least:g}, {most:g}], got {value}")


def resolve_policy(spec: DiffusionSpec, params: SamplingParams) -> Policy:
    """The request's policy or the checkpoint's default.

    Raises:
        ConfigError: the checkpoint was not trained for what the policy does.
    """
    policy = params.policy or make_policy(spec.decoding.policy, defaults=spec.decoding)
    name = type(policy).__name__
    if policy.starts_from_noise != (spec.objective is Objective.UNIFORM):
        need = "Renoise" if spec.objective is Objective.UNIFORM else "a policy that starts from masks"
        raise ConfigError(f"a checkpoint of objective {spec.objective} needs {need}, not {name}")
    if policy.starts_from_noise and params.vocab_size is None:
        raise ConfigError(f"{name} fills the canvas with random tokens and needs vocab_size")
    if edits_tokens(policy) and not (spec.noise.edit_rate or spec.noise.uniform_fraction):
        raise ConfigError(f"{name} edits visible tokens, but this checkpoint never saw wrong ones (edit_rate is 0)")
    return policy


def require_no_stale_rows(params: SamplingParams) -> None:
    """Raise ConfigError if a request whose context is final asks for a cache that is meant for full attention."""
    if params.cache is not Cache.EXACT:
        raise ConfigError(
            f"cache {params.cache} is for holes in place and for checkpoints without blocks, where every position sees "
            f"every other one; this prompt is continued with keys and values that are final and always kept: leave "
            f"cache out"
        )


def special_ids(spec: DiffusionSpec) -> frozenset[int]:
    """Every token id with a meaning to the sampler."""
    return frozenset(value for value in asdict(spec.special).values() if value is not None)


def end_ids(spec: DiffusionSpec, params: SamplingParams) -> frozenset[int]:
    """The tokens that end a response: eos and ``stop_ids``.

    Raises:
        ConfigError: a stop id is a special token that is never written.
    """
    special = sorted(set(params.stop_ids) & (special_ids(spec) - {spec.special.eos}))
    if special:
        raise ConfigError(f"stop_ids holds special tokens, which are never written: {special}")
    return frozenset({spec.special.eos, *params.stop_ids})


def kept_tokens(rule: StopRule | None, token_ids: Sequence[int]) -> int | None:
    """How many of the response's tokens remain by the rule; None: it goes on.

    Raises:
        ConfigError: the rule wants to keep more than there are.
    """
    kept = None if rule is None else rule(token_ids)
    if kept is not None and not 0 <= kept <= len(token_ids):
        raise ConfigError(f"stop must keep 0 to {len(token_ids)} tokens of as many, got {kept}")
    return kept


def forbidden_tokens(vocab_size: int, ids: Iterable[int]) -> Bool[Tensor, " V"]:
    """True at ``ids``.

    Raises:
        ConfigError: an id is outside the vocabulary.
    """
    is_forbidden = torch.zeros(vocab_size, dtype=torch.bool)
    for token in ids:
        if not 0 <= token < vocab_size:
            raise ConfigError(f"token id {token} is outside the vocabulary of {vocab_size}")
        is_forbidden[token] = True
    return is_forbidden
