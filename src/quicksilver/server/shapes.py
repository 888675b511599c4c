"""How each API writes what was generated."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from quicksilver.api import Completion
from quicksilver.protocol.chat import (
    AssistantMessage,
    ChatChoice,
    ChatChunk,
    ChatResponse,
    ChunkChoice,
    Delta,
)
from quicksilver.protocol.completions import CompletionChoice, CompletionResponse, Logprobs
from quicksilver.protocol.sampling import SamplingFields
from quicksilver.protocol.wire import DiffusionMeta, Usage
from quicksilver.server.generation import Head, finish_reason, trace_of
from quicksilver.server.logprobs import chat_logprobs, joined, text_logprobs
from quicksilver.server.tool_reading import ToolReader
from quicksilver.server.tools import Calling, delta_of, read_message, whole_delta
from quicksilver.tokenization.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatShape:
    """``/v1/chat/completions``."""

    fields: SamplingFields
    tokenizer: Tokenizer
    has_logprobs: bool
    calling: Calling | None = None
    """How calls of tools may stand in the text; None: not at all."""
    prefix: str = "chatcmpl-"
    _readers: dict[int, ToolReader] = field(default_factory=dict)
    """Of the choices of a stream that may hold calls."""

    def whole(self, head: Head, completions: Sequence[Completion], usage: Usage) -> ChatResponse:
        choices = [self._choice(index, completion) for index, completion in enumerate(completions)]
        return ChatResponse(
            id=head.id,
            created=head.created,
            model=head.model,
            choices=choices,
            usage=usage,
            system_fingerprint=head.system_fingerprint,
        )

    def _choice(self, index: int, completion: Completion) -> ChatChoice:
        text = completion.holes[0].text
        reader = None if self.calling is None else self.calling.reader()
        message = AssistantMessage(content=text) if reader is None else read_message(reader, text)
        return ChatChoice(
            index=index,
            message=message,
            finish_reason=self._finish_reason(completion, reader),
            logprobs=chat_logprobs(completion, self.tokenizer) if self.has_logprobs else None,
            trace=trace_of(completion, self.fields),
        )

    def first(self, head: Head, index: int) -> ChatChunk:
        return self._chunk(head, [ChunkChoice(index=index, delta=Delta(role="assistant", content=""))])

    def deltas(self, head: Head, index: int, text: str) -> Sequence[ChatChunk]:
        reader = self._reader(index)
        found = [Delta(content=text)] if reader is None else map(delta_of, reader.take(text))
        return [self._chunk(head, [ChunkChoice(index=index, delta=delta)]) for delta in found]

    def frame(self, head: Head, index: int, text: str, meta: DiffusionMeta) -> ChatChunk:
        reader = None if meta.diffusion_content else self._reader(index)
        delta = Delta(role="assistant", content=text) if reader is None else whole_delta(read_message(reader, text))
        return self._chunk(head, [ChunkChoice(index=index, delta=delta)], meta)

    def last(self, head: Head, index: int, completion: Completion) -> Sequence[ChatChunk]:
        reader = self._reader(index)
        held_back = [] if reader is None else map(delta_of, reader.end())
        choice = ChunkChoice(
            index=index,
            delta=Delta(),
            finish_reason=self._finish_reason(completion, reader),
            logprobs=chat_logprobs(completion, self.tokenizer) if self.has_logprobs else None,
            trace=trace_of(completion, self.fields),
        )
        choices = [*(ChunkChoice(index=index, delta=delta) for delta in held_back), choice]
        return [self._chunk(head, [each]) for each in choices]

    def usage(self, head: Head, usage: Usage) -> ChatChunk:
        return self._chunk(head, [], usage=usage)

    def _reader(self, index: int) -> ToolReader | None:
        if self.calling is not None and index not in self._readers:
            self._readers[index] = self.calling.reader()
        return self._readers.get(index)

    def _finish_reason(self, completion: Completion, reader: ToolReader | None) -> str:
        if self.calling is None or reader is None:
            return finish_reason(completion)
        return self.calling.finish_reason(completion, reader)

    def _chunk(
        self, head: Head, choices: list[ChunkChoice], meta: DiffusionMeta | None = None, usage: Usage | None = None
    ) -> ChatChunk:
        return ChatChunk(
            id=head.id,
            created=head.created,
            model=head.model,
            choices=choices,
            usage=usage,
            diffusion_meta=meta,
            system_fingerprint=head.system_fingerprint,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TextShape:
    """``/v1/completions`` and ``/v1/fim/completions``."""

    fields: SamplingFields
    has_logprobs: bool = False
    echoes: Sequence[str] = ()
    """What stands before the text of each choice."""
    prompt_logprobs: Sequence[Logprobs] = field(default=())
    """Of the echoes."""
    prefix: str = "cmpl-"

    def whole(self, head: Head, completions: Sequence[Completion], usage: Usage) -> CompletionResponse:
        choices = [
            CompletionChoice(
                index=index,
                text=self._echo(index) + completion.holes[0].text,
                finish_reason=finish_reason(completion),
                logprobs=self._logprobs(index, completion),
                trace=trace_of(completion, self.fields),
            )
            for index, completion in enumerate(completions)
        ]
        return self._body(head, choices, usage=usage)

    def first(self, head: Head, index: int) -> CompletionResponse | None:
        return self.deltas(head, index, self._echo(index))[0] if self._echo(index) else None

    def deltas(self, head: Head, index: int, text: str) -> Sequence[CompletionResponse]:
        return [self._body(head, [CompletionChoice(index=index, text=text, finish_reason=None)])]

    def frame(self, head: Head, index: int, text: str, meta: DiffusionMeta) -> CompletionResponse:
        choice = CompletionChoice(index=index, text=self._echo(index) + text, finish_reason=None)
        return self._body(head, [choice], meta=meta)

    def last(self, head: Head, index: int, completion: Completion) -> Sequence[CompletionResponse]:
        choice = CompletionChoice(
            index=index,
            text="",
            finish_reason=finish_reason(completion),
            logprobs=self._logprobs(index, completion),
            trace=trace_of(completion, self.fields),
        )
        return [self._body(head, [choice])]

    def usage(self, head: Head, usage: Usage) -> CompletionResponse:
        return self._body(head, [], usage=usage)

    def _echo(self, index: int) -> str:
        return self.echoes[index] if self.echoes else ""

    def _logprobs(self, index: int, completion: Completion) -> Logprobs | None:
        if not self.has_logprobs:
            return None
        own = text_logprobs(completion, offset=len(self._echo(index)))
        return joined(self.prompt_logprobs[index], own) if self.prompt_logprobs else own

    def _body(
        self,
        head: Head,
        choices: list[CompletionChoice],
        *,
        meta: DiffusionMeta | None = None,
        usage: Usage | None = None,
    ) -> CompletionResponse:
        return CompletionResponse(
            id=head.id,
            created=head.created,
            model=head.model,
            choices=choices,
            usage=usage,
            diffusion_meta=meta,
            system_fingerprint=head.system_fingerprint,
        )
