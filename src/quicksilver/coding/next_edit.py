"""The prompt of a next-edit request, as Mercury's clients write it: recent code, the file around a region, past diffs.

Every tag stands alone on its line, but for the cursor's, so code that mentions a tag in a line is not cut there.
"""

import re
from dataclasses import dataclass

from quicksilver.errors import InputError

CURSOR = "<|cursor|>"


@dataclass(frozen=True, kw_only=True, slots=True)
class Snippet:
    """Code that the person looked at lately."""

    path: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class NextEdit:
    """What is known when the next edit is asked for."""

    path: str
    before: str
    """The file above the region; ends with its last line's break."""
    region: str
    """What may be rewritten, without the cursor's mark."""
    after: str
    cursor: int | None
    """Offset of the cursor in the region."""
    snippets: tuple[Snippet, ...] = ()
    history: str = ""
    """Diffs of past edits, oldest first."""


def parse_next_edit(prompt: str) -> NextEdit:
    """Read a prompt.

    Raises:
        InputError: a tag is missing, doubled or in the wrong place, or there are two cursors.
    """
    prompt = prompt.replace("\r\n", "\n")
    file = _body(prompt, "current_file_content")
    if file is None:
        raise InputError("the prompt has no <|current_file_content|>, so there is no file to edit")
    path, text = _named(file, "current_file_path")
    before, region, after = _around(text, "code_to_edit")
    cursors = region.count(CURSOR)
    if cursors > 1:
        raise InputError(f"the region holds {cursors} {CURSOR}; there is one cursor at most")
    snippets = _body(prompt, "recently_viewed_code_snippets") or ""
    return NextEdit(
        path=path,
        before=before,
        region=region.replace(CURSOR, ""),
        after=after,
        cursor=region.index(CURSOR) if cursors else None,
        snippets=tuple(_snippets(snippets)),
        history=_body(prompt, "edit_diff_history") or "",
    )


def render(edit: NextEdit) -> str:
    """The prompt that ``parse_next_edit`` reads."""
    at = edit.cursor
    region = edit.region if at is None else edit.region[:at] + CURSOR + edit.region[at:]
    snippets = "".join(
        _tagged("recently_viewed_code_snippet", f"code_snippet_file_path: {each.path}\n{each.text}")
        for each in edit.snippets
    )
    file = f"current_file_path: {edit.path}\n{edit.before}{_tagged('code_to_edit', region)}{edit.after}"
    return (
        _tagged("recently_viewed_code_snippets", snippets)
        + "\n"
        + _tagged("current_file_content", file)
        + "\n"
        + _tagged("edit_diff_history", edit.history)
    )


def fenced(code: str) -> str:
    """The reply: clients cut between the first fence and the last, so neither may be missing."""
    return f"```\n{code}\n```"


def unfenced(reply: str) -> str:
    """The code of a reply: what stands between the first fence and the last.

    Raises:
        InputError: there are no two fences.
    """
    found = re.search(r"^```[^\n]*\n(.*)\n```", reply, re.MULTILINE | re.DOTALL)
    if found is None:
        raise InputError(f"the reply has no fenced code: {reply[:80]!r}")
    return found[1]


def _tagged(name: str, body: str) -> str:
    end = "" if not body or body.endswith("\n") else "\n"
    return f"<|{name}|>\n{body}{end}<|/{name}|>\n"


def _lines_of(name: str, text: str) -> tuple[re.Match[str], re.Match[str]] | None:
    """Where the tag opens and closes, as whole lines; None if it does neither."""
    opening = list(re.finditer(rf"^<\|{name}\|>[ \t]*\n?", text, re.MULTILINE))
    closing = list(re.finditer(rf"^<\|/{name}\|>[ \t]*\n?", text, re.MULTILINE))
    if not opening and not closing:
        return None
    if len(opening) != 1 or len(closing) != 1 or opening[0].end() > closing[0].start():
        raise InputError(
            f"<|{name}|> must be opened once and then closed once, each on a line of its own; found {len(opening)} and "
            f"{len(closing)}"
        )
    return opening[0], closing[0]


def _body(text: str, name: str) -> str | None:
    found = _lines_of(name, text)
    return None if found is None else text[found[0].end() : found[1].start()]


def _around(text: str, name: str) -> tuple[str, str, str]:
    found = _lines_of(name, text)
    if found is None:
        raise InputError(f"the file has no <|{name}|>, so there is no region to rewrite")
    return text[: found[0].start()], text[found[0].end() : found[1].start()], text[found[1].end() :]


def _named(text: str, field: str) -> tuple[str, str]:
    head, _, rest = text.partition("\n")
    name, colon, value = head.partition(":")
    if name.strip() != field or not colon:
        raise InputError(f"the first line must be '{field}: PATH', got {head[:80]!r}")
    return value.strip(), rest


def _snippets(text: str) -> list[Snippet]:
    tag = "recently_viewed_code_snippet"
    bodies = re.findall(rf"^<\|{tag}\|>[ \t]*\n(.*?)^<\|/{tag}\|>[ \t]*\n?", text, re.MULTILINE | re.DOTALL)
    return [Snippet(path=path, text=body) for path, body in (_named(each, "code_snippet_file_path") for each in bodies)]
