"""A loaded model: the object behind ``quicksilver.load``."""

import secrets
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from itertools import chain
from typing import Unpack

from quicksilver import decoding
from quicksilver.api.checking import DEFAULT_REPAIRS, Check, Repairs, fill_checked_now
from quicksilver.api.context import crop_around_holes
from quicksilver.api.events import Done, StreamEvent
from quicksilver.api.network import recompute
from quicksilver.api.readings import Readings
from quicksilver.api.requests import (
    MARK,
    DecodingKeywords,
    DecodingOptions,
    GenerateRequest,
    HoleOptions,
    InfillLayout,
    InfillRequest,
    parse_layout,
    split_template,
)
from quicksilver.api.results import Completion
from quicksilver.api.session import Plan, Session, timed
from quicksilver.api.stopping import TextStop
from quicksilver.decoding import CanvasLogits, Hole, SamplingParams, Segment, Text
from quicksilver.decoding.params import DEFAULT_MAX_TOKENS
from quicksilver.diffusion.spec import DiffusionSpec
from quicksilver.engine.engine import Engine, EngineConfig
from quicksilver.engine.network import follow
from quicksilver.engine.request import Continuation, Filling
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
        # Ids beyond the tokenizer's (a padded table) have no text. Those of the spec are the sampler's to allow or
        # forbid.
        unwritten = tokenizer.unwritten_ids - set(asdict(spec.special).values())
        self._forbidden_ids = (*sorted(unwritten), *range(tokenizer.vocab_size, vocab_size))

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
        is_infill = isinstance(request, InfillRequest)
        texts = request.texts if is_infill else ("", "")
        params = self._params(request)
        session = Session(self.tokenizer, len(texts) - 1, self.spec.special.eos, params.seed, request.options.stop)
        if is_infill and request.resolve_layout(self.spec) is InfillLayout.PSM:
            jobs = self._psm_jobs(request, session, params, has_frames)
        else:
            job = self._engine_request(request, params, has_frames)
            jobs = iter([job])
            session.begin(len(texts) - 1)
        return Plan(session=session, jobs=jobs, texts=texts)

    def engine_request(self, request: GenerateRequest | InfillRequest, *, has_frames: bool = False) -> EngineRequest:
        """A request as the engine takes it; several of them can share one batch (``engine.run``).

        Raises:
            InputError, ConfigError: as ``generate`` and ``infill``; also for prefix-suffix-middle infill of several
                holes, which is one engine request after the other.
        """
        return self._engine_request(request, self._params(request), has_frames)

    def _engine_request(
        self, request: GenerateRequest | InfillRequest, params: SamplingParams, has_frames: bool
    ) -> EngineRequest:
        if isinstance(request, GenerateRequest) and request.draft is not None:
            task = Filling(template=self._drafted(request))
        elif isinstance(request, GenerateRequest):
            task = Continuation(prompt_ids=tuple(self._prompt(request)))
            params = self._generation_params(request, params)
        elif request.resolve_layout(self.spec) is InfillLayout.IN_PLACE:
            task = Filling(template=tuple(self._template(request)))
        elif request.num_holes == 1:
            params = replace(params, max_tokens=self._psm_room(request))
            task = self._psm_task(request, "", params, 0)
        else:
            raise ConfigError("layout psm fills several holes one after the other, which is no single engine request")
        return self._job(task, params, request.options, has_frames)

    def _job(
        self, task: Continuation | Filling, params: SamplingParams, options: DecodingOptions, has_frames: bool
    ) -> EngineRequest:
        return EngineRequest(
            task=task,
            params=params,
            deadline_ms=options.deadline_ms,
            may_follow_load=options.seed is None,
            has_frames=has_frames,
        )

    def _is_in_place(self, request: GenerateRequest | InfillRequest) -> bool:
        if isinstance(request, GenerateRequest):
            return request.draft is not None or self.spec.continues_in_place
        return request.resolve_layout(self.spec) is InfillLayout.IN_PLACE

    def _params(self, request: GenerateRequest | InfillRequest) -> SamplingParams:
        options = request.options
        return SamplingParams(
            policy=options.resolve_policy(self.spec),
            temperature=options.temperature,
            seed=secrets.randbelow(2**31) if options.seed is None else options.seed,
            block_length=options.block_length,
            max_nfe=options.max_nfe,
            cache=options.resolve_cache(self.spec, is_in_place=self._is_in_place(request)),
            refresh_every=options.refresh_every,
            top_k=options.top_k,
            top_p=options.top_p,
            repetition_penalty=options.repetition_penalty,
            presence_penalty=options.presence_penalty,
            frequency_penalty=options.frequency_penalty,
            logit_bias=options.logit_bias,
            stop=TextStop(self.tokenizer, options.stop) if options.stop else None,
            draft_threshold=options.draft_threshold,
            num_alternatives=options.num_alternatives,
            vocab_size=self._denoiser.config.vocab_size,
            forbidden_ids=self._forbidden_ids,
        )

    def _prompt(self, request: GenerateRequest) -> list[int]:
        start, ids = self.spec.special.file, request.prompt_ids
        prompt_ids = self.tokenizer.encode(request.prompt) if ids is None else list(ids)
        if start is not None and (ids is None or prompt_ids[:1] != [start]):
            prompt_ids.insert(0, start)
        if not prompt_ids:
            raise InputError("the prompt is empty")
        if ids is not None:
            wrong = next((each for each in ids if not 0 <= each < self._denoiser.config.vocab_size), None)
            if wrong is not None:
                raise InputError(
                    f"token ids of the prompt must lie in [0, {self._denoiser.config.vocab_size}): {wrong}"
                )
        return prompt_ids

    def _drafted(self, request: GenerateRequest) -> tuple[Segment, ...]:
        """The prompt and behind it one hole with the draft."""
        request.check_draft(self.spec)
        draft = self.tokenizer.encode(request.draft or "")[: request.max_tokens]
        prompt_ids = self._prompt(request)
        self._require_room(len(prompt_ids) + len(draft) + self._num_canvas_sentinels, "the prompt with its draft")
        return Text(token_ids=tuple(prompt_ids)), Hole(draft=tuple(draft)), Text(token_ids=())

    @property
    def _num_canvas_sentinels(self) -> int:
        return 0 if self.spec.special.canvas is None else 1

    def _generation_params(self, request: GenerateRequest, params: SamplingParams) -> SamplingParams:
        used = len(self._prompt(request))
        # Without blocks, a response takes no more room than its tokens.
        block_length = 1 if self.spec.continues_in_place else self._block_length(request.options.block_length)
        if request.max_tokens is None:
            self._require_room(used + block_length, "the prompt and one block")
            room = (self.max_length - used) // block_length * block_length
            return replace(params, max_tokens=min(DEFAULT_MAX_TOKENS, room))
        self._require_room(
            used + _whole_blocks(request.max_tokens, block_length), "the prompt with max_tokens in whole blocks"
        )
        return replace(params, max_tokens=request.max_tokens)

    def _template(self, request: InfillRequest) -> list[Segment]:
        """Visible text and holes, cropped so that the canvas stays within the context whatever the holes grow to."""
        texts = [tuple(ids) for ids in self.tokenizer.encode_batch(request.texts)]
        space = self.max_length - self._num_canvas_sentinels
        # Holes may take what the text leaves, and at least half of the context.
        most = max(space - sum(map(len, texts)), space // 2) // request.num_holes
        cap = max(min(self.spec.decoding.max_hole_length, most), 1)
        holes = [self._hole(options, cap) for options in request.hole_options]
        lengths = [hole.known_length or hole.max_length or cap for hole in holes]
        room = sum(lengths)
        self._require_room(
            self._num_canvas_sentinels + room, f"{len(holes)} holes of up to {max(lengths)} tokens, {room} in all,"
        )
        seen = crop_around_holes(texts, space - room, self.tokenizer.newline_id)
        rest = (part for pair in zip(holes, seen[1:], strict=True) for part in (pair[0], Text(token_ids=pair[1])))
        return [Text(token_ids=seen[0]), *rest]

    def _hole(self, options: HoleOptions, cap: int) -> Hole:
        if options.draft is not None:
            return Hole(draft=tuple(self.tokenizer.encode(options.draft)))
        if options.length is not None:
            return Hole(length=options.length)
        return Hole(max_length=options.max_length or cap)

    def _psm_room(self, request: InfillRequest, hole: int = 0) -> int:
        """Most tokens of a hole; one that is still open then ends there, with finish reason ``length``."""
        cap = request.hole_options[hole].max_length or min(self.spec.decoding.max_hole_length, self.max_length // 2)
        used = _NUM_PSM_SENTINELS + _whole_blocks(cap, self._block_length(request.options.block_length))
        self._require_room(used, f"a hole of up to {cap} tokens with its sentinels, in whole blocks,")
        return cap

    def _psm_task(self, request: InfillRequest, filled: str, params: SamplingParams, hole: int) -> Continuation:
        """Prefix, with what stands in earlier holes, and suffix of one hole, cropped to the context."""
        room = params.max_tokens or DEFAULT_MAX_TOKENS
        used = _NUM_PSM_SENTINELS + _whole_blocks(room, self._block_length(request.options.block_length))
        prefix, suffix = filled + request.texts[hole], "".join(request.texts[hole + 1 :])
        sides = [tuple(ids) for ids in self.tokenizer.encode_batch([prefix, suffix])]
        before, after = crop_around_holes(sides, self.max_length - used, self.tokenizer.newline_id)
        return Continuation(prompt_ids=decoding.psm_prompt(self.spec, before, after))

    def _psm_jobs(
        self, request: InfillRequest, session: Session, params: SamplingParams, has_frames: bool
    ) -> Iterator[EngineRequest]:
        """One job per hole; a job sees the texts that ``session`` has taken for the holes before it."""
        for hole in range(request.num_holes):
            filled = "".join(part for pair in zip(request.texts, session.filled, strict=False) for part in pair)
            session.begin(1)
            params = replace(params, max_tokens=self._psm_room(request, hole))
            yield self._job(self._psm_task(request, filled, params, hole), params, request.options, has_frames)


def _completion(events: Iterable[StreamEvent]) -> Completion:
    for event in events:
        if isinstance(event, Done):
            return event.completion
    raise InputError("the stream ended without a result")


def _whole_blocks(count: int, block_length: int) -> int:
    return -(-count // block_length) * block_length
