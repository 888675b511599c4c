"""A loaded model: the object behind ``quicksilver.load``."""

from collections.abc import Iterator, Sequence
from typing import Unpack

import torch
from jaxtyping import Float, Int
from torch import Tensor

from quicksilver import decoding
from quicksilver.api.events import Done, StreamEvent
from quicksilver.api.network import recompute
from quicksilver.api.planner import Planner
from quicksilver.api.requests import (
    MARK,
    AnyConstraint,
    DecodingKeywords,
    DecodingOptions,
    GenerateRequest,
    InfillRequest,
    parse_layout,
    split_template,
)
from quicksilver.api.results import Completion
from quicksilver.api.scoring import Score, score_tokens
from quicksilver.api.session import Plan, timed
from quicksilver.constraints.automaton import TokenAutomaton
from quicksilver.constraints.constraint import CompileOptions
from quicksilver.decoding import CanvasLogits
from quicksilver.diffusion.spec import DiffusionSpec, Layout, Objective
from quicksilver.engine.engine import Engine, EngineConfig
from quicksilver.engine.network import follow
from quicksilver.engine.request import Request as EngineRequest
from quicksilver.errors import CheckpointError, ConfigError, InputError
from quicksilver.models.denoiser import Denoiser
from quicksilver.models.parallel import ParallelDenoiser
from quicksilver.tokenization.tokenizer import Tokenizer

_NUM_PSM_SENTINELS = 3


class Model:
    """Generates, fills holes, scores. Every call stands alone, and one at a time per model."""

    def __init__(
        self,
        denoiser: Denoiser,
        spec: DiffusionSpec,
        tokenizer: Tokenizer,
        *,
        name: str,
        chat_template: str | None = None,
        engine_config: EngineConfig | None = None,
    ) -> None:
        """Put the parts together.

        Args:
            denoiser: in evaluation mode.
            spec: how it was trained.
            tokenizer: of its vocabulary.
            name: for messages and answers.
            chat_template: Jinja source that turns a conversation into a prompt; None: the checkpoint knows none.
            engine_config: limits of its engine.

        Raises:
            CheckpointError: the tokenizer has ids the denoiser has no embedding for.
        """
        vocab_size = denoiser.config.vocab_size
        if tokenizer.vocab_size > vocab_size:
            raise CheckpointError(f"the tokenizer has {tokenizer.vocab_size} tokens, the model only {vocab_size}")
        self.name = name
        self.spec = spec
        self.tokenizer = tokenizer
        self.chat_template = chat_template
        self._denoiser = denoiser
        self._logits_fn = recompute(denoiser, spec.prediction_shift)
        self._engine_config = engine_config
        self._engine: Engine | None = None
        self._planner = Planner(
            name=name,
            spec=spec,
            tokenizer=tokenizer,
            vocab_size=vocab_size,
            max_length=denoiser.config.max_length,
        )

    def __repr__(self) -> str:
        return f"Model({self.name!r}, {self.num_parameters / 1e6:.1f}M parameters, objective {self.spec.objective})"

    @property
    def num_parameters(self) -> int:
        return self._denoiser.num_parameters

    @property
    def max_length(self) -> int:
        """Longest canvas, in tokens: prompt or visible text, sentinels and everything written."""
        return self._planner.max_length

    @property
    def engine(self) -> Engine:
        """The engine that runs every request; page memory is taken at its first use."""
        if self._engine is None:
            self._engine = Engine(self._denoiser, self.spec, self._engine_config)
        return self._engine

    def follow(self) -> None:
        """On every rank but the first (see ``load``): take part in what rank 0 runs, until it closes the ranks.

        Raises:
            ConfigError: this process holds the whole model.
            RankError: rank 0 is gone.
        """
        if not isinstance(self._denoiser, ParallelDenoiser):
            raise ConfigError(f"{self.name} is whole in this process and follows no other; load it with ranks")
        follow(self._denoiser)

    @property
    def canvas_logits(self) -> CanvasLogits:
        """The seam that ``quicksilver.decoding`` samples from."""
        return self._logits_fn

    def compile(self, constraint: AnyConstraint, options: CompileOptions | None = None) -> TokenAutomaton:
        """A constraint over this model's tokens, for many requests; one that is compiled already stays as it is.

        Raises:
            ConfigError: it is malformed, too large, says what cannot be kept, or no text satisfies it.
        """
        return self._planner.compile(constraint, options)

    def generate(
        self, prompt: str, *, max_tokens: int | None = None, **options: Unpack[DecodingKeywords]
    ) -> Completion:
        """Continue a prompt; see ``GenerateRequest`` and ``DecodingOptions`` for the parameters.

        Raises:
            InputError: prompt and ``max_tokens`` do not fit the model's context.
            ConfigError: parameters contradict each other or the checkpoint.
        """
        request = GenerateRequest(prompt=prompt, max_tokens=max_tokens, options=DecodingOptions(**options))
        return self.run(request)

    def infill(
        self,
        prefix: str,
        suffix: str,
        *,
        hole_length: int | None = None,
        max_hole_length: int | None = None,
        layout: str | None = None,
        **options: Unpack[DecodingKeywords],
    ) -> Completion:
        """Fill the hole between two texts; see ``InfillRequest`` and ``DecodingOptions`` for the parameters.

        Texts longer than the model's context are seen only near the hole. ``text`` of the result is prefix, filling
        and suffix; ``holes[0].text`` the filling alone.

        Raises:
            InputError: the hole alone does not fit the model's context.
            ConfigError: parameters contradict each other or the checkpoint.
        """
        request = InfillRequest(
            texts=(prefix, suffix),
            hole_length=hole_length,
            max_hole_length=max_hole_length,
            layout=parse_layout(layout),
            options=DecodingOptions(**options),
        )
        return self.run(request)

    def infill_template(
        self,
        template: str,
        *,
        mark: str = MARK,
        hole_length: int | None = None,
        max_hole_length: int | None = None,
        layout: str | None = None,
        **options: Unpack[DecodingKeywords],
    ) -> Completion:
        """Fill every ``mark`` of a text together, as ``infill`` does one.

        Raises:
            InputError: there is no mark, or the holes alone do not fit the model's context.
            ConfigError: parameters contradict each other or the checkpoint.
        """
        request = InfillRequest(
            texts=split_template(template, mark),
            hole_length=hole_length,
            max_hole_length=max_hole_length,
            layout=parse_layout(layout),
            options=DecodingOptions(**options),
        )
        return self.run(request)

    def run(self, request: GenerateRequest | InfillRequest) -> Completion:
        """The completion of a request.

        Raises:
            InputError, ConfigError: as ``generate`` and ``infill``.
        """
        for event in self._stream(request, has_snapshots=False):
            if isinstance(event, Done):
                return event.completion
        raise InputError("the stream ended without a result")

    def stream(self, request: GenerateRequest | InfillRequest) -> Iterator[StreamEvent]:
        """The events of a request while it runs; the last is Done. Bad requests raise here, before the first event.

        Example:
            >>> for event in model.stream(GenerateRequest(prompt="def mean(xs):")):
            ...     match event:
            ...         case Draft(text=text): ...
            ...         case Done(completion=completion): ...
        """
        return self._stream(request, has_snapshots=True)

    def _stream(self, request: GenerateRequest | InfillRequest, *, has_snapshots: bool) -> Iterator[StreamEvent]:
        plan = self.plan(request, has_frames=has_snapshots)
        # Submitted here and not at the first event, so that a bad request raises at once.
        return self._follow(plan, self.engine.stream(next(plan.jobs)))

    def _follow(self, plan: Plan, events: Iterator[decoding.Event]) -> Iterator[StreamEvent]:
        submitted = self.engine.clock()
        while True:
            yield from timed(plan.session, events)
            job = next(plan.jobs, None)
            if job is None:
                break
            events = self.engine.stream(job, submitted=submitted)
        yield Done(completion=plan.completion())

    def plan(self, request: GenerateRequest | InfillRequest, *, has_frames: bool = False) -> Plan:
        """What the engine must run to answer a request; for whoever drives the engine itself, as a server does.

        Raises:
            InputError, ConfigError: as ``generate`` and ``infill``, but for what only the engine finds.
        """
        return self._planner.plan(request, has_frames=has_frames)

    def token_limit(self, request: GenerateRequest) -> int:
        """Most tokens that a request may write, eos included.

        Raises:
            InputError: prompt and ``max_tokens`` do not fit the model's context.
        """
        return self._planner.token_limit(request)

    def engine_request(self, request: GenerateRequest | InfillRequest, *, has_frames: bool = False) -> EngineRequest:
        """A request as the engine takes it; several of them can share one batch (``engine.run``).

        Raises:
            InputError, ConfigError: as ``generate`` and ``infill``; also for prefix-suffix-middle infill of several
                holes, which is one engine request after the other.
        """
        return self._planner.engine_request(request, has_frames=has_frames)

    def score(self, text: str, *, num_subsets: int = 4, seed: int = 0) -> Score:
        """Negative log-likelihood of a text from the start of a file: exact if autoregressive, else an upper bound.

        Args:
            text: at least one token and no longer than the model's context.
            num_subsets: random masks per masked count; the bound's standard error falls with the root of it.
            seed: of the masks.

        Raises:
            InputError: the text is empty or too long.
            ConfigError: the checkpoint's objective has no such likelihood.
        """
        token_ids = self.tokenizer.encode(text)
        if not token_ids:
            raise InputError("an empty text has no likelihood to score")
        self._planner.require_room(len(token_ids) + 1, "the text with its start token")
        num_bytes = len(text.encode("utf-8"))
        return score_tokens(
            self._denoiser, self.spec, token_ids, num_bytes=num_bytes, num_subsets=num_subsets, seed=seed
        )

    @torch.inference_mode()
    def next_token_logprobs(self, token_ids: Sequence[int]) -> Float[Tensor, "L V"]:
        """Log-probabilities of every token of a text given those before it, by the next-token reading.

        Exact for an autoregressive checkpoint. A mask-trained one has this reading besides its own if its committed
        tokens are causal: it is the text's likelihood under the same weights, though not under the diffusion process.

        Args:
            token_ids: the text, without the start token, which is given before it.

        Raises:
            InputError: the text is empty or too long.
            ConfigError: the checkpoint has no such reading.
        """
        start = self.spec.special.file
        is_causal = self.spec.objective is Objective.AUTOREGRESSIVE or self.spec.has_causal_context
        if start is None or not is_causal or Layout.BLOCK_CAUSAL not in self.spec.layouts:
            raise ConfigError(
                "this checkpoint does not predict the next token, so it has no log-probabilities of a text"
            )
        if not token_ids:
            raise InputError("an empty text has no log-probabilities")
        self._planner.require_room(len(token_ids) + 1, "the text with its start token")
        canvas = torch.tensor([start, *token_ids])
        return self._logits_fn.raw(canvas, torch.arange(len(canvas)))[:-1].float().log_softmax(-1).cpu()

    def logits(self, token_ids: Sequence[int], *, layout: Layout | None = None) -> Float[Tensor, "L V"]:
        """Raw float32 logits of one canvas, row for row as the network gives them: never shifted, nothing forbidden.

        Args:
            token_ids: the canvas, sentinels included; nothing is added.
            layout: one of ``spec.layouts``; None takes the first. In place every position sees every other one.
                Block-causal is causal attention for an autoregressive checkpoint, else a grid of ``spec.block_length``
                from the first token, whose last block is the draft if committed tokens are causal.

        Raises:
            InputError: the canvas is empty or too long, or an id is out of range.
            ConfigError: the checkpoint was not trained in the layout.
        """
        layout = self.spec.layouts[0] if layout is None else layout
        if layout not in self.spec.layouts:
            raise ConfigError(
                f"this checkpoint was not trained in layout {layout}; it knows {', '.join(self.spec.layouts)}"
            )
        if not token_ids:
            raise InputError("an empty canvas has no logits")
        self._planner.require_room(len(token_ids), "the canvas")
        vocab_size = self._denoiser.config.vocab_size
        if not 0 <= min(token_ids) <= max(token_ids) < vocab_size:
            raise InputError(f"token ids must lie in [0, {vocab_size}), got {min(token_ids)} to {max(token_ids)}")
        blocks = self._blocks(len(token_ids)) if layout is Layout.BLOCK_CAUSAL else torch.zeros(len(token_ids)).long()
        # Cloned out of inference mode, so that the caller may write to it.
        return self._logits_fn.raw(torch.tensor(list(token_ids)), blocks).cpu().clone()

    def _blocks(self, length: int) -> Int[Tensor, " L"]:
        positions, block_length = torch.arange(length), self._planner.block_length(None)
        if self.spec.has_causal_context:
            return positions.clamp(max=(length - 1) // block_length * block_length)
        return positions // block_length
