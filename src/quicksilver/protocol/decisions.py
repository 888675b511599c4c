"""Bodies of ``POST /v1/decisions``: Inception's and TypeSafe's form, with ``state``, and OpenAI's, with ``input``."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, StrictBool, StrictStr, model_validator

from quicksilver.protocol.wire import Wire

MAX_QUESTIONS = 400
MAX_LABELS = 255
Told = str | dict[str, Any] | list[Any]
"""A text, or JSON that is told as such."""


class NoulCriteria(Wire):
    """What the two answers mean."""

    true: Told | None = None
    false: Told | None = None


class NoulQuestion(Wire):
    """How likely a statement is to be true."""

    type: Literal["noul"]
    instructions: Told | None = None
    criteria: NoulCriteria | None = None


class ChoiceQuestion(Wire):
    """Which of several labels fits."""

    type: Literal["choice"]
    criteria: Annotated[dict[str, Told | None], Field(min_length=1, max_length=MAX_LABELS)]
    """Labels, and what each means."""
    instructions: Told | None = None
    mark: Annotated[str, Field(min_length=1)] | None = None
    """Ours: stands in the state once, in the place where one of the labels stands. Nothing else is asked then."""


class ScoreQuestion(Wire):
    """Which of several ordered levels fits; they count from 0."""

    type: Literal["score"]
    criteria: Annotated[list[Told], Field(min_length=1, max_length=MAX_LABELS)]
    instructions: Told | None = None


StateQuestion = Annotated[NoulQuestion | ChoiceQuestion | ScoreQuestion, Field(discriminator="type")]
Instructions = str | list[dict[str, Any]]
"""A text, or parts of types ``input_text`` and ``input_json``."""


class Predicate(Wire):
    """How likely a statement about the input is to be true."""

    type: Literal["predicate"]
    instructions: Instructions
    name: str | None = None


class Option(Wire):
    """One of the choices."""

    value: StrictStr | StrictBool
    description: str | None = None


class Choice(Wire):
    """Which option fits."""

    type: Literal["choice"]
    instructions: Instructions
    choices: Annotated[list[Option], Field(min_length=1, max_length=MAX_LABELS)]
    name: str | None = None


class Level(Wire):
    """Of a scale."""

    label: str
    description: str | None = None


class Score(Wire):
    """Which of several ordered levels fits; they count from 0."""

    type: Literal["score"]
    instructions: Instructions
    levels: Annotated[list[Level], Field(min_length=1, max_length=MAX_LABELS)]
    name: str | None = None


InputQuestion = Annotated[Predicate | Choice | Score, Field(discriminator="type")]


class DecisionRequest(Wire):
    """Questions about a ``state`` by name, or about an ``input`` in order."""

    model: str | None = None
    state: Told | None = None
    input: str | list[dict[str, Any]] | None = None
    """A text, or messages and calls of tools."""
    questions: (
        Annotated[dict[str, StateQuestion], Field(min_length=1, max_length=MAX_QUESTIONS)]
        | Annotated[list[InputQuestion], Field(min_length=1, max_length=MAX_QUESTIONS)]
    )

    @model_validator(mode="after")
    def _has_one_form(self) -> Self:
        if (self.state is None) == (self.input is None):
            raise ValueError("questions are about a state or about an input: give one of them")
        if (self.state is None) == isinstance(self.questions, dict):
            raise ValueError("questions about a state are an object by name, those about an input a list")
        return self


class NoulAnswer(Wire):
    """Probability of yes."""

    type: Literal["noul"] = "noul"
    noul: float


class ChoiceAnswer(Wire):
    """The likeliest label."""

    type: Literal["choice"] = "choice"
    choice: str
    confidence: float
    """0 where all labels are as likely, 1 where one is sure; as of every answer."""
    probabilities: dict[str, float]


class ScoreAnswer(Wire):
    """The level to expect."""

    type: Literal["score"] = "score"
    score: float
    """Mean of the levels' numbers."""
    confidence: float
    legend: dict[str, Told]
    """Levels by number."""
    probabilities: dict[str, float]
    """By number."""


class StateUsage(Wire):
    """Tokens that were read; nothing is written."""

    input_tokens: int
    output_tokens: int = 0


class StateDecisions(Wire):
    """Answers about a state, by the names of their questions."""

    model: str
    answers: dict[str, NoulAnswer | ChoiceAnswer | ScoreAnswer]
    usage: StateUsage


class PredicateAnswer(Wire):
    """Probability of yes."""

    type: Literal["predicate"] = "predicate"
    name: str | None
    probability: float


class OptionProbability(Wire):
    """Of one option."""

    value: StrictStr | StrictBool
    probability: float


class OptionAnswer(Wire):
    """The likeliest option."""

    type: Literal["choice"] = "choice"
    name: str | None
    choice: StrictStr | StrictBool
    confidence: float
    probabilities: list[OptionProbability]


class LevelProbability(Wire):
    """Of one level."""

    label: str
    value: int
    probability: float


class LevelAnswer(Wire):
    """The level to expect."""

    type: Literal["score"] = "score"
    name: str | None
    score: float
    confidence: float
    probabilities: list[LevelProbability]


class InputDetails(Wire):
    """Of the tokens that were read."""

    cached_tokens: int = 0
    cache_write_tokens: int = 0


class OutputDetails(Wire):
    """Of the tokens that were written: none."""

    reasoning_tokens: int = 0


class InputUsage(Wire):
    """As in OpenAI's API."""

    input_tokens: int
    input_tokens_details: InputDetails = InputDetails()
    output_tokens: int = 0
    output_tokens_details: OutputDetails = OutputDetails()
    total_tokens: int


class InputDecisions(Wire):
    """Answers about an input, in the order of their questions."""

    model: str
    answers: list[PredicateAnswer | OptionAnswer | LevelAnswer]
    usage: InputUsage
