"""Draw docs/images/denoising.svg: one run of the bundled model, a few of its forward passes below each other.

python scripts/picture.py [MODEL [FILE [OUT]]]
"""

import os
import sys
from pathlib import Path

from rich.console import Console

from quicksilver.api import DecodingOptions, Done, InfillRequest, Snapshot, load, split_template
from quicksilver.cli.watch import legend, render

_NUM_PICTURES = 4
_WIDTH = 76
_FILE = Path("examples/lru_cache.py.fill")
_OUT = Path("docs/images/denoising.svg")
_NUM_ROWS = 14


def draw(model: str, file: Path, out: Path, seed: int = 0) -> None:
    """Fill ``file`` and write evenly spaced snapshots of the run to ``out``."""
    request = InfillRequest(
        texts=split_template(file.read_text(encoding="utf-8")), options=DecodingOptions(seed=seed, temperature=0.0)
    )
    loaded = load(model, device="cpu")
    snapshots, completion = [], None
    for event in loaded.stream(request):
        if isinstance(event, Snapshot):
            snapshots.append(event)
        elif isinstance(event, Done):
            completion = event.completion
    if not snapshots or completion is None:
        sys.exit(f"picture: {model} gave no snapshots")
    last = len(snapshots) - 1
    shown = sorted({round(last * i / (_NUM_PICTURES - 1)) for i in range(_NUM_PICTURES)})
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=_WIDTH, file=nowhere, highlight=False)
        for index in shown:
            console.print(f"forward pass {snapshots[index].nfe} of {completion.nfe}", style="bold")
            console.print(render(request.texts, snapshots[index].holes, num_rows=_NUM_ROWS))
            console.print()
        console.print(legend())
        out.parent.mkdir(parents=True, exist_ok=True)
        # A fixed id keeps the file the same from run to run.
        console.save_svg(str(out), title=f"{loaded.name} fills {file.name}", unique_id="denoising")


if __name__ == "__main__":
    given = sys.argv[1:]
    draw(
        given[0] if given else "quicksilver-coder",
        Path(given[1]) if len(given) > 1 else _FILE,
        Path(given[2]) if len(given) > 2 else _OUT,
    )
