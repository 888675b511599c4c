"""Fill-in-the-middle prompts as editors write them for the models they know, inside a plain completion prompt.

A prompt is read as one of a dialect if it starts with one of the dialect's sentinels, or ends in its closing sentinel
and holds another. The first opening and the last closing sentinel count; others of them are code. Anything else is an
ordinary prompt.
"""

import re
from dataclasses import dataclass

from quicksilver.errors import InputError

_CURSOR = "<|user_cursor|>"
_MARKER = re.compile(r"<\|marker_(\d+)\|>")


@dataclass(frozen=True, kw_only=True, slots=True)
class Dialect:
    """The sentinels of a family of models; a prompt is opening, text, separator, text, closing."""

    name: str
    opening: str
    separator: str
    closing: str
    """Empty where the prompt just ends."""
    is_suffix_first: bool = False
    is_spaced: bool = False
    """A space follows the opening and stands before separator and closing."""
    file_tags: tuple[str, ...] = ()
    """Each starts a line that ends in a path; the file's text follows."""
    has_region: bool = False
    """The text around the cursor is marked, and the reply rewrites it."""
    more_stops: tuple[str, ...] = ()

    @property
    def sentinels(self) -> tuple[str, ...]:
        return tuple(filter(None, (self.opening, self.separator, self.closing)))

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that the client expects not to see in the middle."""
        return (*self.sentinels, *map(str.strip, self.file_tags), *self.more_stops)


DIALECTS: tuple[Dialect, ...] = (
    # Qwen2.5-Coder's and CodeGemma's; they differ in the tag between files only.
    Dialect(
        name="qwen",
        opening="<|fim_prefix|>",
        separator="<|fim_suffix|>",
        closing="<|fim_middle|>",
        file_tags=("<|file_sep|>", "<|file_separator|>"),
        more_stops=("<|fim_pad|>", "<|repo_name|>", "<|endoftext|>", "<|im_end|>"),
    ),
    Dialect(
        name="star_coder",
        opening="<fim_prefix>",
        separator="<fim_suffix>",
        closing="<fim_middle>",
        file_tags=("<file_sep>",),
        more_stops=("<fim_pad>", "<repo_name>", "<|endoftext|>"),
    ),
    Dialect(
        name="deepseek_coder",
        opening="<｜fim▁begin｜>",
        separator="<｜fim▁hole｜>",
        closing="<｜fim▁end｜>",
        more_stops=("<｜end▁of▁sentence｜>", "<|EOT|>"),
    ),
    Dialect(
        name="codestral",
        opening="[SUFFIX]",
        separator="[PREFIX]",
        closing="",
        is_suffix_first=True,
        file_tags=("+++++ ",),
        more_stops=("</s>",),
    ),
    Dialect(
        name="code_llama",
        opening="<PRE>",
        separator="<SUF>",
        closing="<MID>",
        is_spaced=True,
        more_stops=("<EOT>", "</s>"),
    ),
    Dialect(
        name="glm",
        opening="<|code_prefix|>",
        separator="<|code_suffix|>",
        closing="<|code_middle|>",
        more_stops=("<|endoftext|>", "<|user|>"),
    ),
    # Zed's zeta 2.1 on Seed-Coder's sentinels: the prefix ends with the region to rewrite, between numbered markers.
    Dialect(
        name="zeta2_1",
        opening="<[fim-suffix]>",
        separator="<[fim-prefix]>",
        closing="<[fim-middle]>",
        is_suffix_first=True,
        file_tags=("<filename>",),
        has_region=True,
        more_stops=("<|marker_", _CURSOR, "<[end▁of▁sentence]>"),
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rewrite:
    """A region around the cursor: the end of the prefix and the start of the suffix, both part of the reply."""

    num_before: int
    """Characters at the prefix's end."""
    num_after: int
    """Characters at the suffix's start."""
    opening: str
    """The marker that the reply starts with."""
    closing: str


@dataclass(frozen=True, kw_only=True, slots=True)
class FimPrompt:
    """A hole between two texts."""

    prefix: str
    suffix: str
    dialect: Dialect
    path: str | None = None
    """The file the hole is in, where the prompt tells."""
    context: str = ""
    """What precedes that file: other files, in the dialect's own format."""
    rewrite: Rewrite | None = None

    def reply(self, middle: str) -> str:
        """What the client expects for this middle: itself, or the whole region between its markers."""
        if self.rewrite is None:
            return middle
        before = self.prefix[len(self.prefix) - self.rewrite.num_before :]
        return f"{self.rewrite.opening}{before}{middle}{self.suffix[: self.rewrite.num_after]}{self.rewrite.closing}"


def parse_fim(prompt: str) -> FimPrompt | None:
    """The hole that a raw prompt asks to fill; None for an ordinary prompt.

    Raises:
        InputError: sentinels of a dialect are there, but not in its order; the message names the wrong one.
    """
    for dialect in DIALECTS:
        starts = prompt.startswith(dialect.sentinels)
        ends = bool(dialect.closing) and prompt.endswith(dialect.closing)
        if starts or (ends and (dialect.opening in prompt or dialect.separator in prompt)):
            return _parsed(prompt, dialect)
    return None


def _parsed(prompt: str, dialect: Dialect) -> FimPrompt:
    context, first, second = _split(prompt, dialect)
    prefix, suffix = (second, first) if dialect.is_suffix_first else (first, second)
    path, context, prefix = _file_of(context, prefix, dialect)
    if not dialect.has_region:
        return FimPrompt(prefix=prefix, suffix=suffix, dialect=dialect, path=path, context=context)
    prefix, suffix, rewrite = _region(prefix, suffix)
    return FimPrompt(prefix=prefix, suffix=suffix, dialect=dialect, path=path, context=context, rewrite=rewrite)


def _split(prompt: str, dialect: Dialect) -> tuple[str, str, str]:
    """What stands before the opening, and the two texts."""
    order = " … ".join(dialect.sentinels)
    if not prompt.endswith(dialect.closing):
        fault = "is not last" if dialect.closing in prompt else "is missing"
        raise InputError(f"{dialect.closing} {fault}; a {dialect.name} prompt is {order}, with nothing after it")
    body = prompt[: len(prompt) - len(dialect.closing)]
    context, opening, body = body.partition(dialect.opening)
    if not opening:
        raise InputError(f"{dialect.opening} is missing; a {dialect.name} prompt is {order}")
    if dialect.separator in context:
        raise InputError(f"{dialect.separator} stands before {dialect.opening}; a {dialect.name} prompt is {order}")
    if (count := body.count(dialect.separator)) != 1:
        fault = "is missing" if not count else f"stands there {count} times, so where to split is not clear"
        raise InputError(f"{dialect.separator} {fault}; a {dialect.name} prompt is {order}")
    first, _, second = body.partition(dialect.separator)
    if dialect.is_spaced:
        first, second = first.removeprefix(" ").removesuffix(" "), second.removesuffix(" ")
    return context, first, second


def _file_of(context: str, prefix: str, dialect: Dialect) -> tuple[str | None, str, str]:
    """The path of the hole's file, what precedes the file, and the prefix without either."""
    if not dialect.file_tags:
        return None, context, prefix
    tags = "|".join(map(re.escape, dialect.file_tags))
    header = re.compile(rf"^(?:{tags})([^\r\n]+)\r?\n", re.MULTILINE)
    if headers := list(header.finditer(prefix)):
        last = headers[-1]
        return last[1].strip(), context + prefix[: last.start()], prefix[last.end() :]
    for last in list(header.finditer(context))[-1:]:
        if last.end() == len(context):
            return last[1].strip(), context[: last.start()], prefix
    return None, context, prefix


def _region(prefix: str, suffix: str) -> tuple[str, str, Rewrite]:
    """Prefix and suffix of the cursor, with the marked region around it."""
    markers = list(_MARKER.finditer(prefix))
    numbers = [int(marker[1]) for marker in markers]
    if len(markers) < 2 or numbers != list(range(1, len(markers) + 1)):
        raise InputError(f"the region needs <|marker_1|>, <|marker_2|>, … in order, found the numbers {numbers}")
    region = _MARKER.sub("", prefix[markers[0].start() : markers[-1].end()])
    if (count := region.count(_CURSOR)) != 1:
        raise InputError(f"the region holds {_CURSOR} {count} times; it must stand there once")
    before, _, after = region.partition(_CURSOR)
    rewrite = Rewrite(
        num_before=len(before), num_after=len(after), opening=markers[0].group(), closing=markers[-1].group()
    )
    return prefix[: markers[0].start()] + before, after + prefix[markers[-1].end() :] + suffix, rewrite
