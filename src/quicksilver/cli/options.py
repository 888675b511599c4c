"""Options that several subcommands share. Imports nothing heavy: help must be fast."""

from pathlib import Path
from typing import Annotated

import typer

from quicksilver.errors import ConfigError

DEFAULT_MODEL = "quicksilver-coder"

POLICY_HELP = (
    "What is committed at each step: confidence_threshold, dynamic_factor, entropy_bound, hierarchical, fixed_steps, "
    "confidence_order, margin_order, entropy_order, random_order, timesteps, joint_threshold, renoise, remdm or "
    "self_speculative. [default: the model's]"
)

Model = Annotated[str, typer.Option("--model", metavar="NAME|FOLDER", help="A bundled model or a checkpoint folder.")]
Server = Annotated[
    str | None, typer.Option(metavar="URL", help="Ask an OpenAI-compatible server instead of loading a model.")
]
ServerModel = Annotated[
    str | None, typer.Option(metavar="NAME", help="Which of the server's models. [default: the server chooses]")
]
Device = Annotated[str | None, typer.Option(metavar="cpu|cuda", help="Where to run. [default: a GPU if there is one]")]
Dtype = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Of the weights: float32, bfloat16 or float16. [default: float32; a large model's own]"
    ),
]
Quantize = Annotated[
    str | None,
    typer.Option(
        metavar="SCHEME",
        help="Store the projections in fewer bits: int8_dynamic, int8_weight, int4_weight or (CUDA) fp8_dynamic.",
    ),
]
Policy = Annotated[str | None, typer.Option(metavar="NAME", help=POLICY_HELP)]
Threshold = Annotated[
    float | None, typer.Option(metavar="P", help="Commit a token from this confidence, 0 to 1. [default: the model's]")
]
Steps = Annotated[
    int | None,
    typer.Option(metavar="N", help="Forwards per block, or for all holes in place; alone: policy fixed_steps."),
]
Revision = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="What may happen to what is written until its block is final: none, edit, remask, remdm_cap, "
        "remdm_rescale or remdm_conf. [default: the model's]",
    ),
]
Guidance = Annotated[
    float | None,
    typer.Option(min=0, max=20, metavar="S", help="Away from what is likely without the prompt, by this scale."),
]
CfgUntil = Annotated[
    float | None,
    typer.Option(metavar="P", help="Only until this share of a block, or of the holes, is written. [default: 1]"),
]
NegativePrompt = Annotated[
    str | None, typer.Option(metavar="TEXT", help="Guidance away from what is likely behind this text.")
]
Classifier = Annotated[
    str | None, typer.Option(metavar="NAME", help="Towards what a classifier wants: typed-python, annotated code.")
]
ClassifierScale = Annotated[float | None, typer.Option(min=0, max=20, metavar="S", help="How much. [default: 1]")]
BlockLength = Annotated[
    int | None, typer.Option(metavar="N", help="Tokens denoised together, block by block. [default: the model's]")
]
Temperature = Annotated[
    float | None, typer.Option(metavar="T", help="0 takes the most probable tokens. [default: the model's]")
]
Seed = Annotated[int | None, typer.Option(metavar="N", help="Repeat exactly what this seed gave. [default: a new one]")]
TopK = Annotated[int | None, typer.Option(metavar="K", help="Sample among the K likeliest tokens.")]
TopP = Annotated[
    float | None, typer.Option(metavar="P", help="Sample among the likeliest tokens that have probability P together.")
]
MaxNfe = Annotated[
    int | None, typer.Option("--max-nfe", metavar="N", help="Commit what is open at this forward and end.")
]
DeadlineMs = Annotated[
    float | None, typer.Option(metavar="MS", help="End after so many milliseconds with the best answer so far.")
]
Cache = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Rows computed per forward, in place: exact (all), or prefix, dual or vicinity: those near what is "
        "written, while the others are seen as they were. [default: the model's]",
    ),
]
RefreshEvery = Annotated[
    int | None,
    typer.Option(
        "--refresh-every",
        metavar="N",
        help="With --cache, compute all rows every N forwards. [default: when a block begins, or a hole has changed "
        "its length]",
    ),
]
JsonSchema = Annotated[
    Path | None,
    typer.Option("--json-schema", metavar="FILE", help="What is written is JSON of this schema, no other properties."),
]
Regex = Annotated[
    str | None, typer.Option(metavar="R", help="What is written matches this expression, in Python's syntax.")
]
Grammar = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="What is written is a text of this grammar: GBNF, or Lark's form in a .lark."),
]
Choice = Annotated[
    list[str] | None, typer.Option(metavar="TEXT", help="What is written is one of these; given several times.")
]
Require = Annotated[
    list[str] | None, typer.Option(metavar="TEXT", help="This stands somewhere in what is written; several times.")
]
Ban = Annotated[
    list[str] | None, typer.Option(metavar="TEXT", help="This stands nowhere in what is written; several times.")
]
Stop = Annotated[
    list[str] | None, typer.Option(metavar="TEXT", help="End before this text; may be given several times.")
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print JSON: text per hole, NFE, TPF, tokens/s, confidence per token.")
]
Watch = Annotated[bool, typer.Option("--watch", help="Show the draft settle, on stderr.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Print what it took on stderr even if that is no terminal.")]
Output = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write the text to this file instead of standard output.")
]
Trace = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write every decision to this file; see quicksilver replay.")
]


def asks_server(context: typer.Context, server: str | None, server_model: str | None, *local: str) -> bool:
    """Whether a request goes to a server.

    Raises:
        ConfigError: an option named in ``local``, which is about a model in this process, is given beside it.
    """
    if server is None:
        if server_model is not None:
            raise ConfigError("--server-model needs --server")
        return False
    for name in said(context):
        if name in local:
            raise ConfigError(f"--{name.replace('_', '-')} contradicts --server: the model runs there")
    return True


def said(context: typer.Context) -> list[str]:
    """The parameters that stand on the command line."""
    # By name: which library defines the enumeration differs between versions of typer.
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]


def examples(lines: str) -> str:
    """The end of a help page."""
    # \b keeps the line breaks of a paragraph.
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines.splitlines())
