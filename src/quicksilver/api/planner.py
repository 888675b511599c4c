"""From requests to what the engine runs: prompts, templates with holes, limits, fitted into the context."""

import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property

from quicksilver import decoding
from quicksilver.api.context import crop_around_holes
from quicksilver.api.requests import (
    AnyConstraint,
    DecodingOptions,
    GenerateRequest,
    HoleOptions,
    InfillLayout,
    InfillRequest,
)
from quicksilver.api.session import Plan, Session
from quicksilver.api.stopping import TextStop
from quicksilver.constraints.automaton import TokenAutomaton
from quicksilver.constraints.compiling import compile_constraint
from quicksilver.constraints.constraint import CompileOptions
from quicksilver.constraints.strings import Strings
from quicksilver.decoding import Hole, SamplingParams, Segment, Text
from quicksilver.decoding.params import DEFAULT_MAX_TOKENS
from quicksilver.diffusion.spec import DiffusionSpec, Objective
from quicksilver.engine.request import Continuation, Filling
from quicksilver.engine.request import Request as EngineRequest
from quicksilver.errors import ConfigError, ContextLengthError, InputError
from quicksilver.tokenization.tokenizer import Tokenizer

_NUM_PSM_SENTINELS = 3


@dataclass(frozen=True, kw_only=True)
class Planner:
    """Knows of a model what requests must fit."""

    name: str
    spec: DiffusionSpec
    tokenizer: Tokenizer
    vocab_size: int
    """Of the network; the tokenizer may have fewer tokens."""
    max_length: int
    """Longest canvas, in tokens."""

    def compile(self, constraint: AnyConstraint, options: CompileOptions | None = None) -> TokenAutomaton:
        """See ``Model.compile``."""
        if isinstance(constraint, TokenAutomaton):
            return constraint
        return compile_constraint(constraint, self.tokenizer, options, eos_token_id=self.spec.special.eos)

    def _compiled(self, constraint: AnyConstraint | None, options: DecodingOptions) -> TokenAutomaton | None:
        if constraint is None:
            return None
        if options.stop and not isinstance(constraint, TokenAutomaton):
            constraint = Strings(banned=options.stop, base=constraint)
        return self.compile(constraint)

    @cached_property
    def _forbidden_ids(self) -> tuple[int, ...]:
        # Ids beyond the tokenizer's (a padded table) have no text. Those of the spec are the sampler's to allow or
        # forbid.
        unwritten = self.tokenizer.unwritten_ids - set(asdict(self.spec.special).values())
        return (*sorted(unwritten), *range(self.tokenizer.vocab_size, self.vocab_size))

    def plan(self, request: GenerateRequest | InfillRequest, *, has_frames: bool = False) -> Plan:
        """See ``Model.plan``."""
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
        """See ``Model.engine_request``."""
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
            params = self._psm_params(request, params, 0)
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

    def block_length(self, requested: int | None) -> int:
        """Of a request that asks for ``requested``; None: it leaves it to the checkpoint."""
        return 1 if self.spec.objective is Objective.AUTOREGRESSIVE else requested or self.spec.block_length

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
            stop=TextStop(self.tokenizer, options.stop) if options.stop and not _is_constrained(request) else None,
            draft_threshold=options.draft_threshold,
            num_alternatives=options.num_alternatives,
            guidance=options.resolve_guidance(self.tokenizer),
            vocab_size=self.vocab_size,
            forbidden_ids=self._forbidden_ids,
        )

    def require_room(self, count: int, what: str) -> None:
        """Raise ContextLengthError if the context has no room for so many tokens."""
        if count > self.max_length:
            raise ContextLengthError(f"{what} takes {count} tokens, the context of {self.name} is {self.max_length}")

    def _prompt(self, request: GenerateRequest) -> list[int]:
        start, ids = self.spec.special.file, request.prompt_ids
        prompt_ids = self.tokenizer.encode(request.prompt) if ids is None else list(ids)
        if start is not None and (ids is None or prompt_ids[:1] != [start]):
            prompt_ids.insert(0, start)
        if not prompt_ids:
            raise InputError("the prompt is empty")
        if ids is not None:
            wrong = next((each for each in ids if not 0 <= each < self.vocab_size), None)
            if wrong is not None:
                raise InputError(f"token ids of the prompt must lie in [0, {self.vocab_size}): {wrong}")
        return prompt_ids

    def _drafted(self, request: GenerateRequest) -> tuple[Segment, ...]:
        """The prompt and behind it one hole with the draft."""
        request.check_draft(self.spec)
        draft = self.tokenizer.encode(request.draft or "")[: request.max_tokens]
        prompt_ids = self._prompt(request)
        self.require_room(len(prompt_ids) + len(draft) + self._num_canvas_sentinels, "the prompt with its draft")
        hole = Hole(draft=tuple(draft), constraint=self._compiled(request.options.constraint, request.options))
        return Text(token_ids=tuple(prompt_ids)), hole, Text(token_ids=())

    @property
    def _num_canvas_sentinels(self) -> int:
        return 0 if self.spec.special.canvas is None else 1

    def token_limit(self, request: GenerateRequest) -> int:
        """See ``Model.token_limit``."""
        if request.draft is not None:
            return min(len(self.tokenizer.encode(request.draft)), request.max_tokens or self.max_length)
        used = len(self._prompt(request))
        # Without blocks, a response takes no more room than its tokens.
        block_length = 1 if self.spec.continues_in_place else self.block_length(request.options.block_length)
        if request.max_tokens is None:
            self.require_room(used + block_length, "the prompt and one block")
            return min(DEFAULT_MAX_TOKENS, (self.max_length - used) // block_length * block_length)
        self.require_room(
            used + _whole_blocks(request.max_tokens, block_length), "the prompt with max_tokens in whole blocks"
        )
        return request.max_tokens

    def _generation_params(self, request: GenerateRequest, params: SamplingParams) -> SamplingParams:
        constraint = self._compiled(request.options.constraint, request.options)
        return replace(params, max_tokens=self.token_limit(request), constraint=constraint)

    def _template(self, request: InfillRequest) -> list[Segment]:
        """Visible text and holes, cropped so that the canvas stays within the context whatever the holes grow to."""
        texts = [tuple(ids) for ids in self.tokenizer.encode_batch(request.texts)]
        space = self.max_length - self._num_canvas_sentinels
        # Holes may take what the text leaves, and at least half of the context.
        most = max(space - sum(map(len, texts)), space // 2) // request.num_holes
        cap = max(min(self.spec.decoding.max_hole_length, most), 1)
        holes = [self._hole(known, request.options, cap) for known in request.hole_options]
        lengths = [hole.known_length or hole.max_length or cap for hole in holes]
        room = sum(lengths)
        self.require_room(
            self._num_canvas_sentinels + room, f"{len(holes)} holes of up to {max(lengths)} tokens, {room} in all,"
        )
        seen = crop_around_holes(texts, space - room, self.tokenizer.newline_id)
        rest = (part for pair in zip(holes, seen[1:], strict=True) for part in (pair[0], Text(token_ids=pair[1])))
        return [Text(token_ids=seen[0]), *rest]

    def _hole(self, known: HoleOptions, options: DecodingOptions, cap: int) -> Hole:
        constraint = self._compiled(known.constraint, options)
        if known.draft is not None:
            return Hole(draft=tuple(self.tokenizer.encode(known.draft)), constraint=constraint)
        if known.length is not None:
            return Hole(length=known.length, constraint=constraint)
        return Hole(max_length=known.max_length or cap, constraint=constraint)

    def _psm_params(self, request: InfillRequest, params: SamplingParams, hole: int) -> SamplingParams:
        """With the most tokens of a hole; one that is still open then ends there, with finish reason ``length``."""
        known = request.hole_options[hole]
        cap = known.max_length or min(self.spec.decoding.max_hole_length, self.max_length // 2)
        used = _NUM_PSM_SENTINELS + _whole_blocks(cap, self.block_length(request.options.block_length))
        self.require_room(used, f"a hole of up to {cap} tokens with its sentinels, in whole blocks,")
        return replace(params, max_tokens=cap, constraint=self._compiled(known.constraint, request.options))

    def _psm_task(self, request: InfillRequest, filled: str, params: SamplingParams, hole: int) -> Continuation:
        """Prefix, with what stands in earlier holes, and suffix of one hole, cropped to the context."""
        room = params.max_tokens or DEFAULT_MAX_TOKENS
        used = _NUM_PSM_SENTINELS + _whole_blocks(room, self.block_length(request.options.block_length))
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
            params = self._psm_params(request, params, hole)
            yield self._job(self._psm_task(request, filled, params, hole), params, request.options, has_frames)


def _whole_blocks(count: int, block_length: int) -> int:
    return -(-count // block_length) * block_length


def _is_constrained(request: GenerateRequest | InfillRequest) -> bool:
    """Whether constraints say where everything that is written ends."""
    if isinstance(request, GenerateRequest):
        return request.options.constraint is not None
    return all(hole.constraint is not None for hole in request.hole_options)
