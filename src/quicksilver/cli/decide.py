"""`quicksilver decide`: which of some texts stands in a place of a file."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from quicksilver.cli import options
from quicksilver.cli.files import read_text, write_text
from quicksilver.cli.terminal import loading_bar
from quicksilver.errors import InputError

if TYPE_CHECKING:
    from quicksilver.protocol.decisions import ChoiceAnswer

EXAMPLES = r"""printf 'def half(x):\n    return x <FILL> 2\n' | quicksilver decide - --choice / --choice '*'
quicksilver decide draft.py --mark '???' --choice left --choice right --json
quicksilver decide draft.py --choice '<' --choice '<=' --server http://127.0.0.1:8080"""


def command(
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="FILE", help="UTF-8 file with one mark; - is standard input.")],
    choice: Annotated[
        list[str], typer.Option(metavar="TEXT", help="What may stand at the mark; given 1 to 255 times.")
    ],
    model: options.Model = options.DEFAULT_MODEL,
    server: options.Server = None,
    server_model: options.ServerModel = None,
    mark: Annotated[str, typer.Option(metavar="TEXT", help="What stands for the place.")] = "<FILL>",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    device: options.Device = None,
    dtype: options.Dtype = None,
    quantize: options.Quantize = None,
) -> None:
    """Print how likely each of some texts is to stand in a place, the likeliest first; one forward of the model.

    Probabilities are calibrated where the model's temperature was fitted: see quicksilver calibrate.
    """
    text = read_text(source)
    if not mark or text.count(mark) != 1:
        raise InputError(
            f"the mark {mark!r} must stand in the text once, it does {text.count(mark) if mark else 0} times"
        )
    if options.asks_server(context, server, server_model, "model", "device", "dtype", "quantize"):
        from quicksilver.cli import remote

        _tell(remote.decide(server or "", text, model=server_model, mark=mark, choices=choice), is_json=as_json)
        return
    with loading_bar(f"loading {model}") as progress:
        from quicksilver.api import load
        from quicksilver.protocol.decisions import ChoiceAnswer

        loaded = load(model, device=device, dtype=dtype, quantize=quantize, progress=progress)
    before, after = text.split(mark)
    found = loaded.decide(before, after, choice)
    odds = dict(zip(found.labels, found.probabilities, strict=True))
    _tell(ChoiceAnswer(choice=found.label, confidence=found.confidence, probabilities=odds), is_json=as_json)


def _tell(answer: "ChoiceAnswer", *, is_json: bool) -> None:
    if is_json:
        write_text(json.dumps(answer.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n", None)
        return
    ordered = sorted(answer.probabilities.items(), key=lambda pair: -pair[1])
    write_text("".join(f"{each:.3f}  {label}\n" for label, each in ordered), None)
