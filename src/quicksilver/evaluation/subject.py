"""Who is examined: anything that fills holes and continues prompts, whatever engine or server is behind it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """How an answer is wanted. A subject that cannot honour a field refuses it."""

    seed: int
    max_tokens: int | None = None
    """Most tokens of the answer: of a continuation, or of each hole. None: the subject's own default."""
    temperature: float = 0.0
    stop: tuple[str, ...] = ()
    """Texts before which an answer ends; they are not part of it."""
    hole_length: int | None = None
    """The hole's length in the subject's own tokens, where a suite gives it away; None: to be found."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a subject wrote, and what it took."""

    texts: tuple[str, ...]
    """One per hole; a continuation is one."""
    num_tokens: int
    """Written tokens, end of text left out."""
    nfe: int | None
    """Forward passes, all of them counted; None where a server does not say."""
    seconds: float
    """From the request to its end, by the subject's own clock."""
    finish_reason: str
    first_text_s: float | None = None
    """Until the first text that stays; None where it was not observed."""
    reference_tokens: int | None = None
    """Length of what was wanted in the subject's tokens, where a suite counts it."""
    nats: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Where likelihoods are asked for instead of a text: by reading, one for every random draw. Of a decision, scores
    and probabilities of its labels."""
    forward_s: float | None = None
    """Seconds of one forward over the same text, where a suite compares with it."""


@runtime_checkable
class Subject(Protocol):
    """A model behind some engine or server."""

    @property
    def name(self) -> str:
        """For tables and file names."""
        ...

    def about(self) -> Mapping[str, object]:
        """Everything that decides the answers: weights, policy, dtype, server; JSON-ready."""
        ...

    def count_tokens(self, text: str) -> int | None:
        """Length of a text in the subject's tokens; None where it keeps them to itself."""
        ...

    def fill(self, texts: Sequence[str], ask: Ask) -> Answer:
        """Fill the holes between texts, all of them together where the subject can.

        Raises:
            ConfigError: the subject cannot be asked so.
        """
        ...

    def complete(self, prompt: str, ask: Ask) -> Answer:
        """Continue a prompt. Where it does not fit the subject's context: an empty text of reason ``TOO_LONG``.

        Raises:
            ConfigError: the subject cannot be asked so.
        """
        ...


@runtime_checkable
class Editor(Subject, Protocol):
    """A subject that also changes code: behind Quicksilver's routes, or others that read the same prompts."""

    def edit(self, prompt: str, ask: Ask) -> Answer:
        """The region of a next-edit prompt (``coding.next_edit``) as it should be.

        A reply in which there is none is an empty text of ``finish_reason`` ``MALFORMED``, and a prompt that does not
        fit the context one of ``TOO_LONG``.
        """
        ...

    def apply(self, prompt: str, ask: Ask) -> Answer:
        """The file of an apply prompt (``coding.apply``) with its snippet merged.

        A merge that is refused because the snippet leaves a doubt is an empty text of ``finish_reason`` ``REFUSED``.
        """
        ...


@runtime_checkable
class Decider(Subject, Protocol):
    """A subject that says which of several labels stands in a place."""

    def decide(self, before: str, after: str, labels: Sequence[str]) -> Answer:
        """``nats`` holds ``scores`` of the labels in nats, up to a constant, and calibrated ``probabilities``."""
        ...


def unanswered(finish_reason: str, seconds: float = 0.0) -> Answer:
    """Nothing written, and why."""
    return Answer(texts=("",), num_tokens=0, nfe=0, seconds=seconds, finish_reason=finish_reason)


REFUSED = "refused"
"""Finish reason of a question that the subject will not answer with a guess."""
MALFORMED = "malformed"
"""Finish reason of a reply in which no edit can be found."""
TOO_LONG = "too_long"
"""Finish reason of a question that does not fit the subject's context."""
