import pytest

from quicksilver.coding.dialects import DIALECTS, parse_fim
from quicksilver.errors import InputError

PROMPTS = {
    "qwen": "<|fim_prefix|>a = <|fim_suffix|>\nb<|fim_middle|>",
    "star_coder": "<fim_prefix>a = <fim_suffix>\nb<fim_middle>",
    "deepseek_coder": "<｜fim▁begin｜>a = <｜fim▁hole｜>\nb<｜fim▁end｜>",
    "codestral": "[SUFFIX]\nb[PREFIX]a = ",
    "code_llama": "<PRE> a =  <SUF>\nb <MID>",
    "glm": "<|code_prefix|>a = <|code_suffix|>\nb<|code_middle|>",
    "zeta2_1": "<[fim-suffix]>\nb<[fim-prefix]><|marker_1|>a = <|user_cursor|><|marker_2|><[fim-middle]>",
}


@pytest.mark.parametrize("name", PROMPTS)
def test_a_dialect_is_recognised(name):
    prompt = parse_fim(PROMPTS[name])
    assert prompt is not None
    assert (prompt.dialect.name, prompt.prefix, prompt.suffix, prompt.path) == (name, "a = ", "\nb", None)


def test_every_dialect_is_among_the_examples_and_stops_at_its_sentinels():
    assert {dialect.name for dialect in DIALECTS} == set(PROMPTS)
    for dialect in DIALECTS:
        assert {dialect.opening, dialect.separator} < set(dialect.stops)
        assert "" not in dialect.stops


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "def f():\n    return ",
        'OPENING = "<fim_prefix>"\n',
        'if text.startswith("[SUFFIX]"):\n',
        "x = 1  # ends with a stray <fim_middle>",
        "<|file_sep|>a.py\nx = 1\n",
    ],
)
def test_ordinary_prompts_are_left_alone(prompt):
    assert parse_fim(prompt) is None


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("<fim_suffix>b<fim_prefix>a<fim_middle>", "<fim_suffix> stands before <fim_prefix>"),
        ("<fim_prefix>a<fim_suffix>b<fim_middle>c", "<fim_middle> is not last"),
        ("<fim_prefix>a<fim_middle>b<fim_suffix>", "<fim_middle> is not last"),
        ("<fim_prefix>a<fim_suffix>b", "<fim_middle> is missing"),
        ("<fim_prefix>a<fim_middle>", "<fim_suffix> is missing"),
        ("a<fim_suffix>b<fim_middle>", "<fim_prefix> is missing"),
        ("<fim_prefix>a<fim_suffix>b<fim_suffix>c<fim_middle>", "<fim_suffix> stands there 2 times"),
        ("[PREFIX]a[SUFFIX]b", r"\[PREFIX\] stands before \[SUFFIX\]"),
        ("[SUFFIX]b", r"\[PREFIX\] is missing"),
        ("<[fim-suffix]>b<[fim-prefix]><|marker_1|>a<[fim-middle]>", r"found the numbers \[1\]"),
        ("<[fim-suffix]>b<[fim-prefix]><|marker_2|>a<|marker_1|><[fim-middle]>", r"found the numbers \[2, 1\]"),
        ("<[fim-suffix]>b<[fim-prefix]><|marker_1|>a<|marker_2|><[fim-middle]>", r"<\|user_cursor\|> 0 times"),
    ],
)
def test_a_malformed_prompt_is_refused_by_name(prompt, message):
    with pytest.raises(InputError, match=message):
        parse_fim(prompt)


def test_sentinels_within_the_code_are_code_where_that_is_clear():
    prompt = parse_fim('<fim_prefix>OPEN = "<fim_prefix>"; END = "<fim_middle>"<fim_suffix>\n<fim_middle>')
    assert prompt is not None
    assert prompt.prefix == 'OPEN = "<fim_prefix>"; END = "<fim_middle>"'


@pytest.mark.parametrize(
    ("text", "path", "context"),
    [
        (
            "<|repo_name|>r\n<|file_sep|>a.py\nA = 1\n<|file_sep|>b.py\n<|fim_prefix|>x = <|fim_suffix|><|fim_middle|>",
            "b.py",
            "<|repo_name|>r\n<|file_sep|>a.py\nA = 1\n",
        ),
        ("<|fim_prefix|><|file_separator|>b.py\nx = <|fim_suffix|><|fim_middle|>", "b.py", ""),
        (
            "<fim_prefix><file_sep>a.py\nA\n<file_sep>b.py\r\nx = <fim_suffix><fim_middle>",
            "b.py",
            "<file_sep>a.py\nA\n",
        ),
        ("[SUFFIX][PREFIX]+++++ a.py\nA = 1\n\n+++++ b.py\nx = ", "b.py", "+++++ a.py\nA = 1\n\n"),
        ("<|file_sep|>a.py\nA = 1\n<|fim_prefix|>x = <|fim_suffix|><|fim_middle|>", None, "<|file_sep|>a.py\nA = 1\n"),
    ],
)
def test_the_file_of_the_hole_and_what_precedes_it(text, path, context):
    prompt = parse_fim(text)
    assert prompt is not None
    assert (prompt.prefix, prompt.path, prompt.context) == ("x = ", path, context)


def test_a_zeta_reply_is_the_region_between_its_markers():
    prompt = parse_fim(
        "<[fim-suffix]>\nend\n<[fim-prefix]><filename>lib.py\nL = 1\n<filename>src/a.py\nimport b\n"
        "<|marker_1|>def f(<|user_cursor|>):\n<|marker_2|>    pass\n<|marker_3|><[fim-middle]>"
    )
    assert prompt is not None
    assert (prompt.path, prompt.context) == ("src/a.py", "<filename>lib.py\nL = 1\n")
    assert (prompt.prefix, prompt.suffix) == ("import b\ndef f(", "):\n    pass\n\nend\n")
    assert prompt.reply("x") == "<|marker_1|>def f(x):\n    pass\n<|marker_3|>"


def test_other_replies_are_the_middle():
    prompt = parse_fim(PROMPTS["glm"])
    assert prompt is not None
    assert prompt.reply("1") == "1"
