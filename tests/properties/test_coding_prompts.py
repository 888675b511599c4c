"""Prompts of editors: what a client renders, the parsers give back."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicksilver.coding.dialects import DIALECTS, Dialect, parse_fim
from quicksilver.coding.next_edit import NextEditPrompt, ViewedSnippet, parse_next_edit
from quicksilver.errors import InputError

TAGS = ("<|cursor|>", "<|code_to_edit|>", "<|/code_to_edit|>", "<|edit_diff_history|>", "<|/current_file_content|>")
words = st.sampled_from(["x = 1", "    return", "", " ", "größe", "```", *(f"# {tag}" for tag in TAGS)])
code = st.lists(words, max_size=6).map("\n".join)
paths = st.sampled_from(["", "a.py", "src/a b/c.py"])


sources = st.text(alphabet="ab_ (:=7\n\r\t<>|[]{}größ总", max_size=30)


@st.composite
def next_edits(draw) -> dict[str, Any]:
    """Fields of a prompt; the type checks of this session draw from `random`, which strategies must not."""
    region = draw(code).replace("<|cursor|>", "")
    return {
        "path": draw(paths),
        "before": draw(st.one_of(st.just(""), code.map(lambda text: text + "\n"))),
        "region": region,
        "cursor": draw(st.integers(0, len(region))),
        "after": draw(code),
        "snippets": draw(st.lists(st.tuples(paths, code), max_size=3)),
        "diff_history": draw(code),
    }


def built(fields: dict[str, Any]) -> NextEditPrompt:
    snippets = tuple(ViewedSnippet(path=path, code=text) for path, text in fields["snippets"])
    return NextEditPrompt(**{**fields, "snippets": snippets})


def rendered(prompt: NextEditPrompt) -> str:
    """As Zed writes it: every tag on a line of its own, a line break before every closing tag."""

    def tagged(name: str, body: str) -> str:
        return f"<|{name}|>\n{body}\n<|/{name}|>\n"

    viewed = "".join(
        tagged("recently_viewed_code_snippet", f"code_snippet_file_path: {snippet.path}\n{snippet.code}")
        for snippet in prompt.snippets
    )
    region = prompt.region[: prompt.cursor] + "<|cursor|>" + prompt.region[prompt.cursor :]
    file = f"current_file_path: {prompt.path}\n{prompt.before}{tagged('code_to_edit', region)}{prompt.after}"
    return "\n".join(
        [
            tagged("recently_viewed_code_snippets", viewed),
            tagged("current_file_content", file),
            tagged("edit_diff_history", prompt.diff_history),
        ]
    )


def fim_rendered(dialect: Dialect, prefix: str, suffix: str) -> str:
    """Written out per dialect, from the models' cards and Zed's settings."""
    return {
        "qwen": f"<|fim_prefix|>{prefix}<|fim_suffix|>{suffix}<|fim_middle|>",
        "star_coder": f"<fim_prefix>{prefix}<fim_suffix>{suffix}<fim_middle>",
        "deepseek_coder": f"<｜fim▁begin｜>{prefix}<｜fim▁hole｜>{suffix}<｜fim▁end｜>",
        "codestral": f"[SUFFIX]{suffix}[PREFIX]{prefix}",
        "code_llama": f"<PRE> {prefix} <SUF>{suffix} <MID>",
        "glm": f"<|code_prefix|>{prefix}<|code_suffix|>{suffix}<|code_middle|>",
        "zeta2_1": f"<[fim-suffix]>{suffix}<[fim-prefix]>{prefix}<|marker_1|><|user_cursor|><|marker_2|><[fim-middle]>",
    }[dialect.name]


@given(next_edits())
def test_next_edit_prompts_come_back(fields):
    prompt = built(fields)
    assert parse_next_edit(rendered(prompt)) == prompt


@given(next_edits())
def test_next_edit_prompts_with_windows_line_breaks_come_back(fields):
    prompt = built(fields)
    parsed = parse_next_edit(rendered(prompt).replace("\n", "\r\n"))
    for name in ("path", "before", "region", "after", "diff_history"):
        assert getattr(parsed, name).replace("\r\n", "\n") == getattr(prompt, name)
    assert parsed.region[: parsed.cursor].replace("\r\n", "\n") == prompt.region[: prompt.cursor]


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
@given(prefix=sources, suffix=sources, path=st.sampled_from([None, "a.py", "src/a b/c.py"]))
def test_fim_prompts_come_back(dialect, prefix, suffix, path):
    has_path = path is not None and bool(dialect.file_tags)
    prompt = parse_fim(
        fim_rendered(dialect, f"{dialect.file_tags[-1]}{path}\n{prefix}" if has_path else prefix, suffix)
    )
    assert prompt is not None
    assert (prompt.dialect, prompt.prefix, prompt.suffix) == (dialect, prefix, suffix)
    assert prompt.path == (path if has_path else None)


@given(st.sampled_from(DIALECTS), sources, sources, st.sampled_from([" ", "\n", "x = 1"]))
def test_fim_prompts_with_text_behind_them_are_refused(dialect, prefix, suffix, tail):
    if dialect.closing:
        with pytest.raises(InputError, match="is not last"):
            parse_fim(fim_rendered(dialect, prefix, suffix) + tail)


@given(sources)
def test_code_is_an_ordinary_prompt(code):
    assert parse_fim(code) is None
