"""The next-edit prompt of Mercury's edit route, which Zed, Continue and Kilo send, and the fence its reply stands in.

A tag counts where it is alone on its line; elsewhere it is text of the code around it. Only the cursor's tag stands
within a line. The line break after an opening tag and the one before a closing tag belong to the tags.
"""

import re
from dataclasses import dataclass

from quicksilver.errors import InputError

_SNIPPETS = "recently_viewed_code_snippets"
_SNIPPET = "recently_viewed_code_snippet"
_FILE = "current_file_content"
_REGION = "code_to_edit"
_HISTORY = "edit_diff_history"
_CURSOR = "<|cursor|>"
_SNIPPET_PATH = "code_snippet_file_path:"
_FILE_PATH = "current_file_path:"


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewedSnippet:
    """Code that the user looked at a short while ago."""

    path: str
    code: str


@dataclass(frozen=True, kw_only=True, slots=True)
class NextEditPrompt:
    """What an editor shows of its state; the reply is the region rewritten."""

    path: str
    """The file being edited; empty where the editor does not tell."""
    before: str
    """The file's text up to the region."""
    region: str
    """The text to rewrite, without the cursor's tag."""
    cursor: int
    """Characters of the region before the cursor."""
    after: str
    """The file's text after the region. Whether it starts with the line break that ends the region is the client's
    choice: Zed's does, Continue's does not."""
    snippets: tuple[ViewedSnippet, ...] = ()
    diff_history: str = ""
    """Unified diffs of the last edits, oldest first."""


def parse_next_edit(prompt: str) -> NextEditPrompt:
    """The parts of a next-edit prompt. Snippets and history may be absent, and any body may be empty.

    Raises:
        InputError: a tag is missing or doubled, or stands in the wrong place; the message names it.
    """
    viewed = _section(prompt, _SNIPPETS)
    head = viewed.end if viewed else 0
    content = _section(prompt, _FILE, head)
    if content is None:
        raise InputError(f"the next-edit prompt has no <|{_FILE}|>; the file with its region to edit goes there")
    history = _section(prompt, _HISTORY, content.end)
    path, code = _path_and_code(content.body, _FILE_PATH)
    region = _section(code, _REGION)
    if region is None:
        raise InputError(f"<|{_FILE}|> has no <|{_REGION}|>; it marks the lines to rewrite")
    if (count := region.body.count(_CURSOR)) != 1:
        raise InputError(f"<|{_REGION}|> holds {_CURSOR} {count} times; it must stand there once")
    cursor = region.body.index(_CURSOR)
    return NextEditPrompt(
        path=path,
        before=code[: region.start],
        region=region.body[:cursor] + region.body[cursor + len(_CURSOR) :],
        cursor=cursor,
        after=code[region.end :],
        snippets=_snippets(viewed.body) if viewed else (),
        diff_history=history.body if history else "",
    )


def fenced(code: str) -> str:
    """A next-edit reply: clients slice it between its first and last line, and discard it where the last is missing.

    So a reply is never cut short. Where the model has no better text, or ran out of tokens, ``code`` is the region as
    it was: that is how "no change" is said.
    """
    return f"```\n{code}\n```"


@dataclass(frozen=True, slots=True)
class _Section:
    """A tagged part of a text: ``text[start:end]`` with its tags and their line breaks."""

    body: str
    start: int
    end: int


def _section(text: str, name: str, start: int = 0) -> _Section | None:
    """The only section of this name after ``start``; None where neither of its tags is there."""
    opening, closing = f"<|{name}|>", f"<|/{name}|>"
    opened, closed = _places(text, opening, start), _places(text, closing, start)
    if not opened and not closed:
        return None
    for tag, places in ((opening, opened), (closing, closed)):
        if len(places) != 1:
            fault = "is missing" if not places else f"stands on {len(places)} lines"
            raise InputError(f"{tag} {fault}; a next-edit prompt has it once, alone on its line")
    if closed[0] < opened[0]:
        raise InputError(f"{closing} stands before {opening}")
    first = opened[0] + len(opening)
    return _Section(_unframed(text[first : closed[0]]), opened[0], _after_break(text, closed[0] + len(closing)))


def _places(text: str, tag: str, start: int = 0) -> list[int]:
    """Where a tag stands alone on its line."""
    alone = re.compile(rf"(?:^|(?<=\n)){re.escape(tag)}(?=\r?\n|\Z)")
    return [match.start() for match in alone.finditer(text, start)]


def _after_break(text: str, at: int) -> int:
    """The place behind the line break at ``at``, if there is one."""
    match = re.compile(r"\r?\n").match(text, at)
    return match.end() if match else at


def _unframed(body: str) -> str:
    """A body without the line breaks that belong to its tags."""
    return re.sub(r"\r?\n\Z", "", body[_after_break(body, 0) :])


def _path_and_code(body: str, label: str) -> tuple[str, str]:
    if not body.startswith(label):
        raise InputError(f"expected a line {label!r} first, found {body.splitlines()[:1]}")
    match = re.compile(r"[^\r\n]*").match(body, len(label))
    end = match.end() if match else len(body)
    return body[len(label) : end].strip(), body[_after_break(body, end) :]


def _snippets(body: str) -> tuple[ViewedSnippet, ...]:
    """The snippets of their section, each in tags of its own."""
    opening, closing = f"<|{_SNIPPET}|>", f"<|/{_SNIPPET}|>"
    opened, closed = _places(body, opening), _places(body, closing)
    ends = [0, *closed]
    if len(opened) != len(closed) or any(
        not end <= start < close for end, start, close in zip(ends, opened, closed, strict=False)
    ):
        raise InputError(f"{opening} ({len(opened)} of them) and {closing} ({len(closed)}) do not come in pairs")
    parts = (
        _path_and_code(_unframed(body[start + len(opening) : end]), _SNIPPET_PATH)
        for start, end in zip(opened, closed, strict=True)
    )
    return tuple(ViewedSnippet(path=path, code=code) for path, code in parts)
