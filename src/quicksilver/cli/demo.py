"""`quicksilver demo`: fill a file while a person watches, and say what came of it."""

import ast
from pathlib import Path
from typing import Annotated

import typer

from quicksilver.cli import options
from quicksilver.cli.files import read_text
from quicksilver.cli.terminal import spinner

DEFAULT_FILE = Path("examples/lru_cache.py.fill")

EXAMPLES = """quicksilver demo
quicksilver demo my_draft.py --policy entropy_bound"""


def command(
    file: Annotated[Path, typer.Argument(metavar="[FILE]", help="Python file with <FILL> marks.")] = DEFAULT_FILE,
    model: options.Model = options.DEFAULT_MODEL,
    policy: options.Policy = None,
    threshold: options.Threshold = None,
    seed: options.Seed = 0,
    device: options.Device = None,
) -> None:
    """Show a file, fill its holes live, then print the result, whether it parses, and what it took."""
    text = read_text(file)

    with spinner(f"loading {model} …"):
        from rich.console import Console

        from quicksilver.api import Cell, DecodingOptions, InfillRequest, State, load, split_template
        from quicksilver.cli.running import cost_line
        from quicksilver.cli.watch import HoleView, legend, render

        decoding = DecodingOptions(policy=policy, threshold=threshold, seed=seed)
        request = InfillRequest(texts=split_template(text), options=decoding)
        loaded = load(model, device=device)
    events = loaded.stream(request)
    console = Console(highlight=False, soft_wrap=True)
    size = f"{loaded.num_parameters / 1e6:.1f}M parameters"
    console.print(f"{loaded.name} ({size}) fills the {request.num_holes} holes of {file}:\n")
    if not console.is_terminal:
        console.print(text, markup=False)
    with HoleView(console, request.texts, is_kept=False) as view:
        completion = view.follow(events)
    holes = [
        [Cell(text=token.text, state=State.FINAL, confidence=token.confidence) for token in hole.tokens]
        for hole in completion.holes
    ]
    console.print(render(request.texts, holes))
    if console.is_terminal:
        console.print(legend())
    console.print(f"{_verdict(completion.text)}\n{cost_line(completion)}")


def _verdict(source: str) -> str:
    try:
        ast.parse(source)
    except (SyntaxError, ValueError) as error:
        return f"does not parse as Python: {error}"
    return "parses as Python: yes"
