"""A loaded model: the object behind ``quicksilver.load``."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import chain
from typing import Unpack

from quicksilver import decoding
from quicksilver.api.checking import DEFAULT_REPAIRS, Check, Repairs, fill_checked_now
from quicksilver.api.events import Done, StreamEvent
from quicksilver.api.network import recompute
from quicksilver.api.planner import Planner
from quicksilver.api.readings import Readings
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
from quicksilver.api.session import Plan, timed
from quicksilver.constraints.automaton import TokenAutomaton
from quicksilver.constraints.constraint import CompileOptions
from quicksilver.decoding import CanvasLogits
from quicksilver.diffusion.spec import DiffusionSpec
from quicksilver.engine.engine import Engine, EngineConfig
from quicksilver.engine.network import follow
from quicksilver.engine.request import Request as EngineRequest
from quicksilver.errors import CheckpointError, ConfigError, InputError
from quicksilver.models.denoiser import Denoiser
from quicksilver.models.parallel import ParallelDenoiser
from quicksilver.tokenization.tokenizer import Tokenizer

_NUM_PSM_SENTINELS = 3
Events = Generator[StreamEvent, None, None]


class Model(Readings):
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
        check: Check | None = None,
        repairs: Repairs = DEFAULT_REPAIRS,
        **options: Unpack[DecodingKeywords],
    ) -> Completion:
        """Fill the hole between two texts; see ``InfillRequest`` and ``DecodingOptions`` for the parameters.

        Texts longer than the model's context are seen only near the hole. ``text`` of the result is prefix, filling
        and suffix; ``holes[0].text`` the filling alone. With a ``check`` (``quicksilver.coding.checks`` has some) what
        does not pass is written anew, see ``api.checking``.

        Raises:
            InputError: the hole alone does not fit the model's context.
            ConfigError: parameters contradict each other or the checkpoint.
        """
        return self._fill((prefix, suffix), hole_length, max_hole_length, layout, check, repairs, options)

    def infill_template(
        self,
        template: str,
        *,
        mark: str = MARK,
        hole_length: int | None = None,
        max_hole_length: int | None = None,
        layout: str | None = None,
        check: Check | None = None,
        repairs: Repairs = DEFAULT_REPAIRS,
        **options: Unpack[DecodingKeywords],
    ) -> Completion:
        """Fill every ``mark`` of a text together, as ``infill`` does one.

        Raises:
            InputError: there is no mark, or the holes alone do not fit the model's context.
            ConfigError: parameters contradict each other or the checkpoint.
        """
        texts = split_template(template, mark)
        return self._fill(texts, hole_length, max_hole_length, layout, check, repairs, options)

    def _fill(
        self,
        texts: tuple[str, ...],
        hole_length: int | None,
        max_hole_length: int | None,
        layout: str | None,
        check: Check | None,
        repairs: Repairs,
        options: DecodingKeywords,
    ) -> Completion:
        request = InfillRequest(
            texts=texts,
            hole_length=hole_length,
            max_hole_length=max_hole_length,
            layout=parse_layout(layout),
            options=DecodingOptions(**options),
        )
        return self.run(request) if check is None else self.run_checked(request, check, repairs)

    def run(self, request: GenerateRequest | InfillRequest) -> Completion:
        """The completion of a request.

        Raises:
            InputError, ConfigError: as ``generate`` and ``infill``.
        """
        return _completion(self._stream(request, has_snapshots=False))

    def run_together(self, requests: Sequence[GenerateRequest | InfillRequest]) -> list[Completion]:
        """The completions of several requests that share forwards, in their order.

        Raises:
            InputError, ConfigError: as ``generate`` and ``infill``; then none is run to its end.
        """
        with ExitStack() as open_streams:
            opened, streams = [], []
            for request in requests:
                streams.append(open_streams.enter_context(closing(self._stream(request, has_snapshots=False))))
                # A stream that has not begun would not abort its request where another one fails.
                opened.append(next(streams[-1]))
            return [_completion(chain([first], rest)) for first, rest in zip(opened, streams, strict=True)]

    def run_checked(self, request: InfillRequest, check: Check, repairs: Repairs = DEFAULT_REPAIRS) -> Completion:
        """The completion of a request, repaired until it passes a check or ``repairs`` are spent.

        Raises:
            InputError, ConfigError: as ``infill``.
            CheckError: the check could not be run.
        """
        return fill_checked_now(request, check, repairs, self.tokenizer, self.run_together)

    def stream(self, request: GenerateRequest | InfillRequest) -> Iterator[StreamEvent]:
        """The events of a request while it runs; the last is Done. Bad requests raise here, before the first event.

        Example:
            >>> for event in model.stream(GenerateRequest(prompt="def mean(xs):")):
            ...     match event:
            ...         case Draft(text=text): ...
            ...         case Done(completion=completion): ...
        """
        return self._stream(request, has_snapshots=True)

    def _stream(self, request: GenerateRequest | InfillRequest, *, has_snapshots: bool) -> Events:
        plan = self.plan(request, has_frames=has_snapshots)
        # Submitted here and not at the first event, so that a bad request raises at once.
        return self._follow(plan, self.engine.stream(next(plan.jobs)))

    def _follow(self, plan: Plan, events: Iterator[decoding.Event]) -> Events:
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


def _completion(events: Iterable[StreamEvent]) -> Completion:
    for event in events:
        if isinstance(event, Done):
            return event.completion
    raise InputError("the stream ended without a result")
