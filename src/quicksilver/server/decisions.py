"""Questions of ``/v1/decisions`` as places of a text, and decisions as answers.

A question in words becomes the end of a Python file whose last line is ``answer = ``: what a code model reads best. A
choice with a mark is a place of the state itself.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from quicksilver.api import Decision
from quicksilver.protocol import decisions as wire
from quicksilver.server.errors import ApiError, unsupported

YES_NO = ("True", "False")


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where one of several labels stands."""

    before: str
    after: str
    labels: tuple[str, ...]
    may_crop: bool = False
    """Of a question in words nothing may be left out; of a place in code, what is far from it."""


def place_of(subject: str, question: wire.StateQuestion | wire.InputQuestion) -> Place:
    """A question about a text, as a place.

    Raises:
        ApiError: it contradicts itself, or holds what this server does not read.
    """
    if isinstance(question, wire.ChoiceQuestion) and question.mark is not None:
        return _marked(subject, question, question.mark)
    labels, meanings = _labels(question)
    lines = [f"# {line}" for line in _words(question.instructions).splitlines()]
    lines += [f"# {label}: {meaning}" for label, meaning in zip(labels, meanings, strict=True) if meaning]
    quote = '"' if question.type == "choice" else ""
    asked = "\n".join([*lines, f"answer = {quote}"])
    return Place(before=f"{subject}\n\n{asked}", after=f"{quote}\n", labels=labels)


def _marked(subject: str, question: wire.ChoiceQuestion, mark: str) -> Place:
    if question.instructions is not None or any(each is not None for each in question.criteria.values()):
        message = "mark says where a label stands; instructions and descriptions of labels would be ignored"
        raise ApiError(400, message, param="questions", code="invalid_value")
    if subject.count(mark) != 1:
        message = f"the mark {mark!r} must stand in the state once, it does {subject.count(mark)} times"
        raise ApiError(400, message, param="questions", code="invalid_value")
    before, after = subject.split(mark)
    return Place(before=before, after=after, labels=tuple(question.criteria), may_crop=True)


def _labels(question: wire.StateQuestion | wire.InputQuestion) -> tuple[tuple[str, ...], list[str]]:
    """What may be written, and what each means."""
    match question:
        case wire.NoulQuestion(criteria=criteria):
            return YES_NO, ["", ""] if criteria is None else [_words(criteria.true), _words(criteria.false)]
        case wire.Predicate():
            return YES_NO, ["", ""]
        case wire.ChoiceQuestion(criteria=criteria):
            return tuple(criteria), [_words(each) for each in criteria.values()]
        case wire.Choice(choices=choices):
            return tuple(str(each.value) for each in choices), [each.description or "" for each in choices]
        case wire.ScoreQuestion(criteria=levels):
            return _numbers(levels), [_words(each) for each in levels]
        case wire.Score(levels=levels):
            means = [each.label + (f", {each.description}" if each.description else "") for each in levels]
            return _numbers(levels), means


def _numbers(levels: Sequence[object]) -> tuple[str, ...]:
    return tuple(str(number) for number in range(len(levels)))


def _words(told: object) -> str:
    """A text, its parts, or JSON."""
    if told is None or isinstance(told, str):
        return told or ""
    if isinstance(told, list) and all(isinstance(each, dict) and "type" in each for each in told):
        return "\n".join(_part(each) for each in told)
    return json.dumps(told, ensure_ascii=False)


def _part(part: dict[str, Any]) -> str:
    match part:
        case {"type": "input_text" | "output_text" | "text", "text": str(text)}:
            return text
        case {"type": "refusal", "refusal": str(text)}:
            return text
        case {"type": "input_json", "data": data}:
            return json.dumps(data, ensure_ascii=False)
        case {"type": "input_image"}:
            raise unsupported("input", "images are not read")
        case _:
            return json.dumps(part, ensure_ascii=False)


def subject_of(body: wire.DecisionRequest) -> str:
    """The text that is asked about."""
    if body.state is not None:
        return body.state if isinstance(body.state, str) else json.dumps(body.state, ensure_ascii=False)
    if isinstance(body.input, str):
        return body.input
    return "\n".join(_message(item) for item in body.input or ())


def _message(item: dict[str, Any]) -> str:
    match item:
        case {"role": str(role), "content": str() | list() as content}:
            return f"{role}: {_words(content)}"
        case _:  # calls of tools, and what they gave
            return json.dumps(item, ensure_ascii=False)


def answer_about_state(
    question: wire.StateQuestion, decision: Decision
) -> wire.NoulAnswer | wire.ChoiceAnswer | wire.ScoreAnswer:
    """In the words of Inception and TypeSafe."""
    odds = decision.probabilities
    match question:
        case wire.NoulQuestion():
            return wire.NoulAnswer(noul=odds[0])
        case wire.ChoiceQuestion():
            by_label = dict(zip(decision.labels, odds, strict=True))
            return wire.ChoiceAnswer(choice=decision.label, confidence=decision.confidence, probabilities=by_label)
        case wire.ScoreQuestion(criteria=levels):
            return wire.ScoreAnswer(
                score=_expected(odds),
                confidence=decision.confidence,
                legend={str(number): level for number, level in enumerate(levels)},
                probabilities={str(number): each for number, each in enumerate(odds)},
            )


def answer_about_input(
    question: wire.InputQuestion, decision: Decision
) -> wire.PredicateAnswer | wire.OptionAnswer | wire.LevelAnswer:
    """In OpenAI's words."""
    odds, name, confidence = decision.probabilities, question.name, decision.confidence
    match question:
        case wire.Predicate():
            return wire.PredicateAnswer(name=name, probability=odds[0])
        case wire.Choice(choices=choices):
            pairs = [
                wire.OptionProbability(value=each.value, probability=p) for each, p in zip(choices, odds, strict=True)
            ]
            chosen = choices[decision.labels.index(decision.label)].value
            return wire.OptionAnswer(name=name, choice=chosen, confidence=confidence, probabilities=pairs)
        case wire.Score(levels=levels):
            rows = [
                wire.LevelProbability(label=level.label, value=number, probability=odds[number])
                for number, level in enumerate(levels)
            ]
            return wire.LevelAnswer(name=name, score=_expected(odds), confidence=confidence, probabilities=rows)


def _expected(odds: Sequence[float]) -> float:
    return sum(number * each for number, each in enumerate(odds))
