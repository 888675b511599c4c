"""`quicksilver import`: a published checkpoint as a folder of our own."""

from pathlib import Path
from typing import Annotated

import typer

from quicksilver.cli import options
from quicksilver.cli.terminal import loading_bar

EXAMPLES = """quicksilver import downloads/LLaDA-8B-Instruct models/llada
quicksilver import downloads/Dream-Coder-v0-Instruct-7B models/dream-coder --quantize int8_weight"""


def command(
    source: Annotated[Path, typer.Argument(metavar="FOLDER", help="As its makers published it.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New or empty folder.")],
    dtype: options.Dtype = None,
    quantize: options.Quantize = None,
) -> None:
    """Write a published checkpoint as a folder of our own, with its spec, in another dtype or quantized.

    A published folder can also be given as --model directly. The families that are known: LLaDA, Dream and others, see
    docs/checkpoints.md.
    """
    with loading_bar(f"importing {source}") as progress:
        from quicksilver.checkpoints.importing import import_folder
        from quicksilver.quantization.scheme import parse_scheme

        import_folder(source, out, dtype=dtype, scheme=parse_scheme(quantize), progress=progress)
    typer.echo(f"wrote {out}", err=True)
