"""Suites whose items are prompts to continue: what they share."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from quicksilver.evaluation.subject import Answer, Ask, Subject
from quicksilver.evaluation.suite import Mark


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptItem:
    """A prompt, and one answer that is right; others may be too."""

    item_id: str
    prompt: str
    reference: str
    given: Mapping[str, object]
    """What the answer is judged by: a schema, a puzzle."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptSuite:
    """Prompts, and the rule that their answers are judged by."""

    name: str
    headline: str
    prompts: tuple[PromptItem, ...]
    rule: Callable[[PromptItem, str], Mark]
    max_tokens: int
    """Most tokens of an answer."""
    stop: tuple[str, ...]
    source: Mapping[str, object]
    """Where the prompts come from: hashes, seed."""

    def about(self) -> Mapping[str, object]:
        return {"suite": self.name, "max_tokens": self.max_tokens, "stop": list(self.stop), **self.source}

    def items(self) -> tuple[PromptItem, ...]:
        return self.prompts

    def ask(self, subject: Subject, item: PromptItem, seed: int, temperature: float) -> Answer:
        return subject.complete(
            item.prompt, Ask(seed=seed, temperature=temperature, max_tokens=self.max_tokens, stop=self.stop)
        )

    def judge(self, answered: Iterable[tuple[PromptItem, Answer]]) -> Iterator[Mark]:
        for item, answer in answered:
            yield self.rule(item, answer.texts[0])
