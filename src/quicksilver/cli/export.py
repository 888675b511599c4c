"""`quicksilver export`: write a model as a Hugging Face folder."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from quicksilver.cli.terminal import spinner

EXAMPLES = """quicksilver export quicksilver-coder exported/
quicksilver export runs/my-model/final exported/ --dtype float32"""


class Dtype(StrEnum):
    """Number format of the weights on disk."""

    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"
    FLOAT16 = "float16"


def command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A bundled model or a checkpoint folder.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New or empty folder.")],
    dtype: Annotated[Dtype, typer.Option(help="Number format of the weights.")] = Dtype.BFLOAT16,
) -> None:
    """Write a Hugging Face folder: config.json, model.safetensors, tokenizer files.

    transformers.AutoTokenizer loads the tokenizer; Qwen3ForCausalLM loads an autoregressive model and gives the same
    logits. A diffusion model's weights load there too, but transformers attends causally and does not denoise:
    use quicksilver for it.
    """
    with spinner(f"exporting {model} …"):
        from quicksilver.api.loading import find_model
        from quicksilver.checkpoints.huggingface import export_folder

        export_folder(find_model(model), out, dtype=dtype.value)
    typer.echo(f"wrote {out}", err=True)
