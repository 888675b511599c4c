"""The routes of a server that change code, beside a subject that answers everything else."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from quicksilver.client import Client, RefusedError, Reply, RequestOptions
from quicksilver.client.options import NO_OPTIONS
from quicksilver.coding.next_edit import unfenced
from quicksilver.errors import InputError
from quicksilver.evaluation.subject import MALFORMED, REFUSED, TOO_LONG, Answer, Ask, Subject, unanswered

_TOO_LONG = "context_length_exceeded"
"""Code of OpenAI's API."""
_NO_MERGE = 422
"""Status of a snippet that does not say for certain what becomes of the file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EditingSubject:
    """An ``Editor``: what ``subject`` is, asked for edits by ``client``.

    Where the server runs the subject's own model, its engine is the server's: then only edits may be asked.
    """

    subject: Subject
    client: Client
    options: RequestOptions = NO_OPTIONS
    """Of edits; seed and temperature are the question's."""

    @property
    def name(self) -> str:
        return self.subject.name

    def about(self) -> Mapping[str, object]:
        return self.subject.about()

    def count_tokens(self, text: str) -> int | None:
        return self.subject.count_tokens(text)

    def fill(self, texts: Sequence[str], ask: Ask) -> Answer:
        return self.subject.fill(texts, ask)

    def complete(self, prompt: str, ask: Ask) -> Answer:
        return self.subject.complete(prompt, ask)

    def edit(self, prompt: str, ask: Ask) -> Answer:
        start = time.perf_counter()
        try:
            reply = self.client.edit(prompt, options=replace(self.options, seed=ask.seed, temperature=ask.temperature))
        except RefusedError as error:
            if error.code != _TOO_LONG:
                raise
            return unanswered(TOO_LONG, time.perf_counter() - start)
        seconds = time.perf_counter() - start
        try:
            return _answer(reply, unfenced(reply.text), seconds)
        except InputError:
            return replace(_answer(reply, "", seconds), finish_reason=MALFORMED)

    def apply(self, prompt: str, ask: Ask) -> Answer:
        """The route merges by structure, so seed and temperature say nothing to it."""
        start = time.perf_counter()
        try:
            reply = self.client.apply(prompt)
        except RefusedError as error:
            if error.status != _NO_MERGE:
                raise
            return unanswered(REFUSED, time.perf_counter() - start)
        return _answer(reply, reply.text, time.perf_counter() - start)


def _answer(reply: Reply, text: str, seconds: float) -> Answer:
    usage = reply.usage
    return Answer(
        texts=(text,),
        num_tokens=0 if usage is None else usage.completion_tokens,
        nfe=None if usage is None else usage.nfe,
        seconds=seconds,
        finish_reason=reply.finish_reason or "",
    )
