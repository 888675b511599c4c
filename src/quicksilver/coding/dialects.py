"""Fill-in-the-middle prompts as editors write them: prefix and suffix between some model's sentinels, in plain text."""

from dataclasses import dataclass

from quicksilver.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class Dialect:
    """The sentinels of one family of models, in the order in which its prompts write them."""

    name: str
    prefix: str
    """Before the text that precedes the hole; may be empty."""
    suffix: str
    middle: str
    """Where the model writes, at the prompt's end; may be empty where the order says it."""
    is_suffix_first: bool = False


DIALECTS = (
    Dialect(name="qwen", prefix="<|fim_prefix|>", suffix="<|fim_suffix|>", middle="<|fim_middle|>"),
    Dialect(name="star_coder", prefix="<fim_prefix>", suffix="<fim_suffix>", middle="<fim_middle>"),
    Dialect(name="deepseek_coder", prefix="<｜fim▁begin｜>", suffix="<｜fim▁hole｜>", middle="<｜fim▁end｜>"),
    Dialect(name="codestral", prefix="[PREFIX]", suffix="[SUFFIX]", middle="", is_suffix_first=True),
    Dialect(name="infer", prefix="<PRE> ", suffix=" <SUF>", middle=" <MID>"),
    Dialect(name="glm", prefix="<|code_prefix|>", suffix="<|code_suffix|>", middle="<|code_middle|>"),
    Dialect(name="quicksilver", prefix="<fim_pre>", suffix="<fim_suf>", middle="<fim_mid>"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class FimPrompt:
    """A hole and what stands around it."""

    dialect: str
    prefix: str
    suffix: str


def parse_fim(prompt: str) -> FimPrompt | None:
    """The hole of a prompt in one of the dialects; None if it is in none.

    A prompt is in a dialect if it has that dialect's sentinels for prefix and suffix; code that merely mentions one
    of them is no such prompt.

    Raises:
        InputError: a sentinel occurs twice or in the wrong order, so it cannot be told what is code.
    """
    for dialect in DIALECTS:
        if dialect.prefix in prompt and dialect.suffix in prompt:
            return _parse(prompt, dialect)
    return None


def render(dialect: Dialect, prefix: str, suffix: str) -> str:
    """The prompt that a client of the dialect sends."""
    if dialect.is_suffix_first:
        return f"{dialect.suffix}{suffix}{dialect.prefix}{prefix}{dialect.middle}"
    return f"{dialect.prefix}{prefix}{dialect.suffix}{suffix}{dialect.middle}"


def _parse(prompt: str, dialect: Dialect) -> FimPrompt:
    signs = [dialect.prefix, dialect.suffix] if not dialect.is_suffix_first else [dialect.suffix, dialect.prefix]
    if dialect.middle:
        signs.append(dialect.middle)
    for sign in signs:
        if prompt.count(sign) != 1:
            raise InputError(f"a {dialect.name} prompt needs {sign.strip()} exactly once, it has {prompt.count(sign)}")
    places = [prompt.index(sign) for sign in signs]
    if places != sorted(places):
        order = " ".join(sign.strip() for sign in signs)
        raise InputError(f"the sentinels of a {dialect.name} prompt must stand in the order {order}")
    if dialect.middle and not prompt.endswith(dialect.middle):
        raise InputError(f"nothing may follow {dialect.middle.strip()} in a {dialect.name} prompt")
    ends = [*places[1:], len(prompt)]
    parts = [prompt[at + len(sign) : end] for at, sign, end in zip(places, signs, ends, strict=True)]
    prefix, suffix = (parts[1], parts[0]) if dialect.is_suffix_first else (parts[0], parts[1])
    return FimPrompt(dialect=dialect.name, prefix=prefix, suffix=suffix)
