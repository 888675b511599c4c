"""Subjects without a model, for tests of suites."""

from collections.abc import Callable, Mapping, Sequence

from quicksilver.evaluation.subject import Answer, Ask


class FakeSubject:
    """Writes what a function says of the texts around a hole, or of a prompt; one token per character.

    ``asked`` keeps every question. After ``patience`` questions it fails, as a process does that is killed.
    """

    def __init__(
        self, write: Callable[[tuple[str, ...]], str], name: str = "fake", patience: int | None = None
    ) -> None:
        self.write, self._name, self.patience = write, name, patience
        self.asked: list[tuple[tuple[str, ...], Ask]] = []

    @property
    def name(self) -> str:
        return self._name

    def about(self) -> Mapping[str, object]:
        return {"name": self._name}

    def count_tokens(self, text: str) -> int | None:
        return len(text)

    def fill(self, texts: Sequence[str], ask: Ask) -> Answer:
        return self._answer(tuple(texts), ask)

    def complete(self, prompt: str, ask: Ask) -> Answer:
        return self._answer((prompt,), ask)

    def edit(self, prompt: str, ask: Ask) -> Answer:
        return self._answer((prompt,), ask)

    def apply(self, prompt: str, ask: Ask) -> Answer:
        return self._answer((prompt,), ask)

    def _answer(self, texts: tuple[str, ...], ask: Ask) -> Answer:
        if self.patience is not None and len(self.asked) >= self.patience:
            raise KeyboardInterrupt
        self.asked.append((texts, ask))
        text = self.write(texts)
        # As an engine does it: the text ends before a stop, and says so.
        ends = [text.index(stop) for stop in ask.stop if stop in text]
        text = text[: min(ends)] if ends else text
        reason = "stop" if ends else "filled"
        return Answer(texts=(text,), num_tokens=len(text), nfe=2, seconds=0.5, finish_reason=reason)
