"""Conversations to prompts, by the checkpoint's own Jinja template.

The template may write special tokens; messages may not. A message that spells ``<eos>`` is text, so no user can end or
forge a turn: names of special tokens in messages are broken by a character that is taken out after rendering.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from quicksilver.errors import CheckpointError, InputError
from quicksilver.tokenization.tokenizer import Tokenizer

_BREAK = "\ufdd0"
"""A noncharacter of Unicode, for a program's own use."""


class ChatTemplate:
    """Renders conversations into token ids."""

    def __init__(self, source: str, tokenizer: Tokenizer, variables: Mapping[str, str]) -> None:
        """Compile a template.

        Args:
            source: Jinja.
            tokenizer: whose special tokens the template may write.
            variables: what it may name beside the messages: ``bos_token`` and the like.

        Raises:
            CheckpointError: it is no Jinja template.
        """
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _refuse
        environment.filters["tojson"] = _to_json
        try:
            self._template = environment.from_string(source)
            names = meta.find_undeclared_variables(environment.parse(source))
        except TemplateError as error:
            raise CheckpointError(f"the checkpoint's chat template is no Jinja template: {error}") from error
        self.source = source
        self.shows_tools = "tools" in names
        """Whether the model is told which tools there are."""
        self.shows_calls = "tool_calls" in source
        """Whether it is told which of them were called."""
        self._tokenizer, self._variables = tokenizer, dict(variables)
        special = sorted(tokenizer.special, key=len, reverse=True)
        self._names = re.compile("|".join(map(re.escape, special)) or r"(?!)")

    def encode(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> tuple[int, ...]:
        """Token ids of the prompt that asks for the next assistant turn.

        Args:
            messages: ``role`` and ``content`` (text) of each turn; its ``tool_calls``, ``tool_call_id``, ``name``.
            tools: those that may be called, as OpenAI's API has them.

        Raises:
            InputError: the template refuses the conversation, or a message or tool holds U+FDD0.
        """
        given = {"messages": self._broken(list(messages)), "tools": self._broken(list(tools)) or None}
        try:
            text = self._template.render(**self._variables, **given, add_generation_prompt=True)
        except TemplateError as error:
            raise InputError(f"the checkpoint's chat template refuses these messages: {error}") from error
        return tuple(self._token_ids(text))

    def _token_ids(self, text: str) -> list[int]:
        ids: list[int] = []
        at = 0
        for name in self._names.finditer(text):
            ids += self._tokenizer.encode(text[at : name.start()].replace(_BREAK, ""))
            ids.append(self._tokenizer.id_of(name.group()))
            at = name.end()
        return ids + self._tokenizer.encode(text[at:].replace(_BREAK, ""))

    def _broken(self, value: Any) -> Any:  # noqa: ANN401  # JSON
        """Names of special tokens broken wherever they stand in a text."""
        match value:
            case str():
                if _BREAK in value:
                    raise InputError("a message or tool holds the noncharacter U+FDD0, which stands for nothing")
                return self._names.sub(lambda name: name.group()[0] + _BREAK + name.group()[1:], value)
            case Mapping():
                return {self._broken(name): self._broken(each) for name, each in value.items()}
            case list():
                return [self._broken(each) for each in value]
            case _:
                return value


def _to_json(value: Any, indent: int | None = None) -> str:  # noqa: ANN401  # JSON
    # As transformers has it; jinja2's own is for HTML and escapes what templates mean.
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> None:
    raise TemplateError(message)
