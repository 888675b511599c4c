"""Conversations to prompts, by the checkpoint's own Jinja template.

The template may write special tokens; messages may not. A message that spells ``<eos>`` is text, so no user can end or
forge a turn: names of special tokens in messages are broken by a character that is taken out after rendering.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError
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
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise CheckpointError(f"the checkpoint's chat template is no Jinja template: {error}") from error
        self.source = source
        self._tokenizer, self._variables = tokenizer, dict(variables)
        names = sorted(tokenizer.special, key=len, reverse=True)
        self._names = re.compile("|".join(map(re.escape, names)) or r"(?!)")

    def encode(self, messages: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
        """Token ids of the prompt that asks for the next assistant turn.

        Args:
            messages: ``role`` and ``content`` (text) of each turn.

        Raises:
            InputError: the template refuses the conversation, or a message holds U+FDD0.
        """
        if any(_BREAK in str(message.get("content")) for message in messages):
            raise InputError("a message holds the noncharacter U+FDD0, which stands for nothing")
        broken = [{**message, "content": self._break_names(str(message["content"]))} for message in messages]
        try:
            text = self._template.render(**self._variables, messages=broken, add_generation_prompt=True)
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

    def _break_names(self, content: str) -> str:
        return self._names.sub(lambda name: name.group()[0] + _BREAK + name.group()[1:], content)


def _refuse(message: str) -> None:
    raise TemplateError(message)
