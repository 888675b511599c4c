"""Apply prompts: a file and a lazy snippet of its edit, in the spellings of three services."""

import json
import re
from dataclasses import dataclass

from quicksilver.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class ApplyPrompt:
    """A file, and a snippet that shows what changes in it."""

    original: str
    snippet: str
    instruction: str = ""
    """What the edit is for, in words, where the client tells."""


def parse_apply(prompt: str) -> ApplyPrompt:
    """Read Mercury's, Morph's or Relace's apply prompt.

    Raises:
        InputError: none of them; or a tag is missing or doubled, and the message names it.
    """
    text = prompt.strip()
    if text.startswith("{"):
        return _relace(text)
    if "<|original_code|>" in text or "<|update_snippet|>" in text:
        original, rest = _body(text, "<|original_code|>", "<|/original_code|>")
        snippet, _ = _body(rest, "<|update_snippet|>", "<|/update_snippet|>")
        return ApplyPrompt(original=original, snippet=snippet)
    if "<code>" in text and "<update>" in text:
        return _morph(text)
    raise InputError(
        "not an apply prompt; send <|original_code|>…<|/original_code|> and <|update_snippet|>…<|/update_snippet|>, "
        '<code>…</code><update>…</update>, or {"initial_code": …, "edit_snippet": …}'
    )


def render_apply(prompt: ApplyPrompt) -> str:
    """The prompt in Mercury's spelling, which has no place for an instruction."""
    return (
        f"<|original_code|>\n{prompt.original}\n<|/original_code|>\n\n"
        f"<|update_snippet|>\n{prompt.snippet}\n<|/update_snippet|>"
    )


def _morph(text: str) -> ApplyPrompt:
    instruction = ""
    if text.startswith("<instruction>"):
        instruction, text = _body(text, "<instruction>", "</instruction>")
    original, rest = _body(text, "<code>", "</code>")
    snippet, _ = _body(rest, "<update>", "</update>")
    return ApplyPrompt(original=original, snippet=snippet, instruction=instruction)


def _relace(text: str) -> ApplyPrompt:
    try:
        fields = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"an apply prompt that starts with {{ must be JSON: {error}") from error
    values = [fields.get(name, "") for name in ("initial_code", "edit_snippet", "instruction")]
    if not {"initial_code", "edit_snippet"} <= fields.keys() or not all(isinstance(value, str) for value in values):
        raise InputError(f'a JSON apply prompt needs the texts "initial_code" and "edit_snippet", got {sorted(fields)}')
    return ApplyPrompt(original=values[0], snippet=values[1], instruction=values[2])


def _body(text: str, opening: str, closing: str) -> tuple[str, str]:
    """What stands between two tags, and what follows them.

    A tag that is alone on its line counts before one within a line, which may be code; the line break after the
    opening and the one before the closing belong to the tags.
    """
    start = _place(text, opening)
    end = _place(text, closing)
    if end < start:
        raise InputError(f"{closing} stands before {opening}")
    body = re.sub(r"\A\r?\n", "", text[start + len(opening) : end])
    return re.sub(r"\r?\n\Z", "", body), text[end + len(closing) :]


def _place(text: str, tag: str) -> int:
    alone = [match.start() for match in re.finditer(rf"^{re.escape(tag)}(?=\r?$)", text, re.MULTILINE)]
    places = alone or [match.start() for match in re.finditer(re.escape(tag), text)]
    if len(places) != 1:
        raise InputError(f"{tag} {'is missing' if not places else f'stands in {len(places)} places'}; send it once")
    return places[0]
