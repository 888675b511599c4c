"""`quicksilver export`: write a model in a format of other programs."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from quicksilver.cli.terminal import spinner

EXAMPLES = """quicksilver export quicksilver-coder exported/
quicksilver export runs/my-model/final exported/ --dtype float32
quicksilver export quicksilver-coder-ar twin.gguf --format gguf --dtype q8_0"""


class Format(StrEnum):
    """What is written."""

    HUGGINGFACE = "huggingface"
    GGUF = "gguf"


class Dtype(StrEnum):
    """Number format of the weights on disk, by the names that each format gives it."""

    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"
    FLOAT16 = "float16"
    F32 = "f32"
    F16 = "f16"
    Q8_0 = "q8_0"


_DEFAULTS = {Format.HUGGINGFACE: Dtype.BFLOAT16, Format.GGUF: Dtype.F16}


def command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A bundled model or a checkpoint folder.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New or empty folder; for gguf a new file.")],
    form: Annotated[Format, typer.Option("--format", help="What to write.")] = Format.HUGGINGFACE,
    dtype: Annotated[
        Dtype | None,
        typer.Option(
            help="Number format of the weights. huggingface: bfloat16 (default), float32, float16; "
            "gguf: f16 (default), f32, q8_0."
        ),
    ] = None,
) -> None:
    """Write a Hugging Face folder (config.json, model.safetensors, tokenizer files) or a GGUF file.

    transformers.AutoTokenizer loads the tokenizer; Qwen3ForCausalLM loads an autoregressive model and gives the same
    logits. A diffusion model's weights load there too, but transformers attends causally and does not denoise:
    use quicksilver for it.

    A GGUF file is for llama.cpp, of an autoregressive model only; it needs the gguf extra. Token ids mean the same
    there; texts may be split a little differently.
    """
    chosen = (dtype or _DEFAULTS[form]).value
    with spinner(f"exporting {model} …"):
        from quicksilver.api.loading import find_model

        if form is Format.GGUF:
            from quicksilver.checkpoints.gguf import TEXT_NOTE, export_gguf

            export_gguf(find_model(model), out, dtype=chosen)
            note = f"\nnote: {TEXT_NOTE}"
        else:
            from quicksilver.checkpoints.huggingface import export_folder

            export_folder(find_model(model), out, dtype=chosen)
            note = ""
    typer.echo(f"wrote {out}{note}", err=True)
