"""Requests: what a caller asks for, checked before any work is done."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TypedDict

from quicksilver.api.steering import load_classifier
from quicksilver.constraints.automaton import TokenAutomaton
from quicksilver.constraints.constraint import Constraint
from quicksilver.decoding import Cache, Guidance, Policy, make_policy
from quicksilver.diffusion.spec import DiffusionSpec, Layout, Objective
from quicksilver.errors import ConfigError, InputError
from quicksilver.tokenization.tokenizer import Tokenizer

MARK = "<FILL>"
"""What stands for a hole in a template, unless the caller chooses another mark."""
AnyConstraint = Constraint | TokenAutomaton
"""Described, or compiled already (``Model.compile``)."""


class InfillLayout(StrEnum):
    """Where a hole stands on the canvas."""

    IN_PLACE = "in_place"
    """Between prefix and suffix, all holes at once, every position seeing every other one."""
    PSM = "psm"
    """After prefix and suffix, generated block by block until eos. Several holes are filled one after the other, in
    order: an earlier hole is seen with its filling, a later one as if nothing stood there."""


class DecodingKeywords(TypedDict, total=False):
    """``DecodingOptions`` as keywords of ``Model.generate`` and its siblings."""

    policy: str | None
    threshold: float | None
    steps: int | None
    revision: str | None
    guidance: float | None
    cfg_until: float | None
    negative_prompt: str | None
    classifier: str | None
    classifier_scale: float | None
    block_length: int | None
    temperature: float | None
    seed: int | None
    max_nfe: int | None
    deadline_ms: float | None
    cache: str | None
    refresh_every: int | None
    top_k: int | None
    top_p: float | None
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: tuple[tuple[int, float], ...]
    stop: tuple[str, ...]
    draft_threshold: float
    num_alternatives: int
    constraint: AnyConstraint | None


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodingOptions:
    """How to decode; None leaves a choice to the checkpoint."""

    policy: str | None = None
    """One of ``decoding.POLICY_NAMES``. None: ``fixed_steps`` if ``steps`` is given, else the checkpoint's."""
    threshold: float | None = None
    """Confidence from which a token is written, for policies that have a threshold."""
    steps: int | None = None
    """Forwards per block (in place: for all holes together), for policies that have a step count."""
    revision: str | None = None
    """What may happen to what is written until its block is final, one of ``decoding.REVISION_NAMES``; None: the
    checkpoint's. Under a constraint changes are joint and keep it."""
    guidance: float | None = None
    """Scale of classifier-free guidance: away from what is likely without the prompt; 0 and None: none."""
    cfg_until: float | None = None
    """Share of a block's tokens, in place of all holes', from which on it is left out; None: 1, to the end."""
    negative_prompt: str | None = None
    """Away from what is likely behind this text instead."""
    classifier: str | None = None
    """Towards what a shipped classifier wants: ``typed-python``."""
    classifier_scale: float | None = None
    """None: 1."""
    block_length: int | None = None
    """Tokens denoised together when generating block by block; one of the lengths the checkpoint was trained on."""
    temperature: float | None = None
    """0 takes the most probable token."""
    seed: int | None = None
    """In [0, 2**63). None draws one; the result states it, and the same seed gives the same tokens."""
    max_nfe: int | None = None
    """At this forward everything open is committed."""
    deadline_ms: float | None = None
    """Milliseconds after which everything open is committed: the best answer so far."""
    cache: str | None = None
    """Only under full attention, so for holes in place and by checkpoints without blocks: ``exact``, or ``prefix``,
    ``dual`` or ``vicinity``, which compute only rows near what is written and see the others as they were some forwards
    before; see ``decoding.kept_rows``. None: the checkpoint's."""
    refresh_every: int | None = None
    """With such a cache, every so many forwards everything is computed. None: when a block begins, or when a hole has
    changed its length."""
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float = 1.0
    """Above 1, tokens that stand anywhere on the canvas become less likely."""
    presence_penalty: float = 0.0
    """Above 0, tokens written already become less likely; as in the OpenAI API."""
    frequency_penalty: float = 0.0
    """The same for every time that they were written."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Token ids, and what is added to their logits."""
    stop: tuple[str, ...] = ()
    """Texts before which an answer ends, and each of several holes. Where there is a constraint, which says itself
    where a text ends, they do not stand in it."""
    draft_threshold: float = 0.5
    """Of a draft, tokens below this probability are found anew; in [0, 1], 0 keeps all."""
    num_alternatives: int = 0
    """How many of the likeliest tokens are named beside each written one, see ``Token.alternatives``; in [0, 20]."""
    constraint: AnyConstraint | None = None
    """What the answer must be, or each hole that has no constraint of its own. Only ``max_nfe`` and ``deadline_ms`` can
    end an answer before it is whole."""

    def check_stop(self, constraints: Iterable[AnyConstraint | None]) -> None:
        """Raise ConfigError if a stop text could cut what a compiled constraint says the end of."""
        if self.stop and any(isinstance(each, TokenAutomaton) for each in constraints):
            raise ConfigError(
                "stop contradicts a compiled constraint, which says itself where a text ends; leave stop out, or "
                "compile Strings(banned=..., base=...)"
            )

    def resolve_cache(self, spec: DiffusionSpec, *, is_in_place: bool) -> Cache:
        """The cache of a name, or the checkpoint's; ``exact`` where nothing is written in place.

        Raises:
            ConfigError: there is no such cache.
        """
        is_guided = bool(self.guidance) or self.classifier is not None  # for which there is no other
        name = self.cache or (spec.decoding.cache if is_in_place and not is_guided else Cache.EXACT)
        try:
            return Cache(name)
        except ValueError as error:
            raise ConfigError(f"no cache {name!r}; known: {', '.join(Cache)}") from error

    def resolve_guidance(self, tokenizer: Tokenizer) -> Guidance | None:
        """What moves the logits; None: nothing.

        Raises:
            ConfigError: the options contradict each other, or there is no such classifier for the tokenizer.
        """
        if not self.guidance:
            for name in ("cfg_until", "negative_prompt"):
                if getattr(self, name) is not None:
                    raise ConfigError(f"{name} is of classifier-free guidance: give guidance a scale above 0")
        if self.classifier is None and self.classifier_scale is not None:
            raise ConfigError("classifier_scale needs a classifier")
        if not self.guidance and self.classifier is None:
            return None
        return Guidance(
            scale=self.guidance or 0.0,
            until=1.0 if self.cfg_until is None else self.cfg_until,
            negative_ids=None if self.negative_prompt is None else tuple(tokenizer.encode(self.negative_prompt)),
            classifier=None if self.classifier is None else load_classifier(self.classifier, tokenizer.fingerprint),
            classifier_scale=1.0 if self.classifier_scale is None else self.classifier_scale,
        )

    def resolve_policy(self, spec: DiffusionSpec) -> Policy | None:
        """The policy to decode with; None for an autoregressive checkpoint.

        Raises:
            ConfigError: the options contradict each other or the checkpoint.
        """
        if spec.objective is Objective.AUTOREGRESSIVE:
            for name in ("policy", "threshold", "steps", "revision", "block_length"):
                if getattr(self, name) is not None:
                    raise ConfigError(
                        f"{name} has no meaning for an autoregressive checkpoint, which writes one token per step"
                    )
            return None
        if self.policy is None and self.steps is not None and self.threshold is not None:
            raise ConfigError(
                "steps and threshold contradict each other: commit by count (policy fixed_steps) or by confidence"
            )
        trained = sorted({spec.block_length, *spec.trained_block_lengths})
        # Under full attention a block is no more than what is written first.
        is_free = self.block_length is None or spec.continues_in_place
        if not is_free and self.block_length not in trained:
            raise ConfigError(
                f"block_length {self.block_length} was not trained; the checkpoint knows {', '.join(map(str, trained))}"
            )
        name = self.policy or ("fixed_steps" if self.steps is not None else spec.decoding.policy)
        return make_policy(
            name, revision=self.revision, threshold=self.threshold, steps=self.steps, defaults=spec.decoding
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerateRequest:
    """Continue a prompt."""

    prompt: str = ""
    prompt_ids: tuple[int, ...] | None = None
    """Instead of the text; the checkpoint's start token goes before them unless it is there."""
    max_tokens: int | None = None
    """None: 256, or less if the context ends before."""
    draft: str | None = None
    """What will probably follow: decoding starts from it, in place, and writes a text of as many tokens."""
    options: DecodingOptions = field(default_factory=DecodingOptions)

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ConfigError(f"max_tokens must be at least 1, got {self.max_tokens}")
        if self.prompt and self.prompt_ids is not None:
            raise ConfigError("prompt and prompt_ids contradict each other: the prompt is a text or token ids")
        if self.draft is not None and not self.draft:
            raise ConfigError("draft must not be empty; leave it out")
        self.options.check_stop([self.options.constraint])

    def check_draft(self, spec: DiffusionSpec) -> None:
        """Raise ConfigError if there is a draft that the checkpoint cannot start from."""
        if self.draft is None:
            return
        if not is_in_place_trained(spec):
            raise ConfigError("this checkpoint was not trained to fill holes in place, so it cannot start from a draft")
        if self.options.block_length is not None:
            raise ConfigError("block_length contradicts a draft, which is denoised as a whole")


@dataclass(frozen=True, kw_only=True, slots=True)
class HoleOptions:
    """What is known of one hole."""

    length: int | None = None
    """Exact number of tokens; None: found by the model."""
    max_length: int | None = None
    draft: str | None = None
    """Text to start from; its number of tokens is the hole's."""
    constraint: AnyConstraint | None = None
    """What the hole must hold, as a whole. None: what ``DecodingOptions.constraint`` says."""

    def __post_init__(self) -> None:
        if sum(value is not None for value in (self.length, self.max_length, self.draft)) > 1:
            raise ConfigError("a hole has one of length, max_length and draft: each says how long it may be")
        for name, value in (("length", self.length), ("max_length", self.max_length)):
            if value is not None and value < 1:
                raise ConfigError(f"a hole's {name} must be at least 1, got {value}")
        if self.draft is not None and not self.draft:
            raise ConfigError("a hole's draft must not be empty; leave it out")


@dataclass(frozen=True, kw_only=True, slots=True)
class InfillRequest:
    """Fill the holes between given texts. Nothing of the texts changes."""

    texts: tuple[str, ...]
    """What stands before, between and behind the holes: one more than there are holes."""
    hole_length: int | None = None
    """Exact number of tokens of every hole; None: found by the model."""
    max_hole_length: int | None = None
    """Most tokens of a hole of unknown length; None: the checkpoint's, or less so that all holes fit the context."""
    holes: tuple[HoleOptions, ...] | None = None
    """What is known of each hole, instead of the two above."""
    layout: InfillLayout | None = None
    """None: in place if the checkpoint was trained so, else prefix-suffix-middle."""
    options: DecodingOptions = field(default_factory=DecodingOptions)

    def __post_init__(self) -> None:
        if len(self.texts) < 2:
            raise InputError("there is no hole to fill")
        if self.hole_length is not None and self.max_hole_length is not None:
            raise ConfigError(
                "hole_length and max_hole_length contradict each other: a hole's length is known or it is not"
            )
        for name in ("hole_length", "max_hole_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        if self.holes is not None:
            self._check_holes(self.holes)
        self.options.check_stop(hole.constraint for hole in self.hole_options)

    def _check_holes(self, holes: tuple[HoleOptions, ...]) -> None:
        if self.hole_length is not None or self.max_hole_length is not None:
            raise ConfigError("holes contradicts hole_length and max_hole_length, which are about all holes")
        if len(holes) != self.num_holes:
            raise ConfigError(f"holes must say something of each of {self.num_holes} holes, got {len(holes)}")

    @property
    def hole_options(self) -> tuple[HoleOptions, ...]:
        """What is known of each hole, its constraint included."""
        same = HoleOptions(length=self.hole_length, max_length=self.max_hole_length)
        holes = (same,) * self.num_holes if self.holes is None else self.holes
        return tuple(replace(hole, constraint=hole.constraint or self.options.constraint) for hole in holes)

    @property
    def num_holes(self) -> int:
        return len(self.texts) - 1

    def resolve_layout(self, spec: DiffusionSpec) -> InfillLayout:
        """The layout to fill in.

        Raises:
            ConfigError: the checkpoint was not trained in it, or it contradicts another option.
        """
        layout = self.layout or (InfillLayout.IN_PLACE if is_in_place_trained(spec) else InfillLayout.PSM)
        if layout is InfillLayout.IN_PLACE:
            if not is_in_place_trained(spec):
                raise ConfigError("this checkpoint was not trained to fill holes in place; use layout psm")
            if self.options.block_length is not None:
                raise ConfigError(
                    "block_length contradicts layout in_place, which denoises all holes together; use layout psm"
                )
        elif self.options.resolve_cache(spec, is_in_place=False) is not Cache.EXACT:
            raise ConfigError(
                f"cache {self.options.cache} contradicts layout psm, whose keys and values are final and always kept; "
                f"use layout in_place"
            )
        elif Layout.BLOCK_CAUSAL not in spec.layouts:
            raise ConfigError("this checkpoint was not trained block by block; use layout in_place")
        elif any(hole.length is not None or hole.draft is not None for hole in self.hole_options):
            raise ConfigError(
                "hole_length, and a hole's draft, contradict layout psm, where the model ends the hole itself; use "
                "max_hole_length"
            )
        return layout


def is_in_place_trained(spec: DiffusionSpec) -> bool:
    """Whether a checkpoint fills holes where they stand."""
    return Layout.IN_PLACE in spec.layouts and spec.objective is not Objective.AUTOREGRESSIVE


def split_template(template: str, mark: str = MARK) -> tuple[str, ...]:
    """The texts around the marks.

    Raises:
        InputError: the mark is empty or does not occur.
    """
    if not mark:
        raise InputError("the mark of a hole must not be empty")
    texts = tuple(template.split(mark))
    if len(texts) < 2:
        raise InputError(f"there is no hole to fill: {mark} does not occur in the input")
    return texts


def parse_layout(layout: str | None) -> InfillLayout | None:
    """The layout of a name.

    Raises:
        ConfigError: there is no such layout.
    """
    if layout is None:
        return None
    try:
        return InfillLayout(layout)
    except ValueError as error:
        raise ConfigError(f"no layout {layout!r}; known: {', '.join(InfillLayout)}") from error
