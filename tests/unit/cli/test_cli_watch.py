"""The live view: what is drawn where, in which style."""

import io

from rich.console import Console

from quicksilver.api import Cell, DecodingOptions, InfillRequest, State, load
from quicksilver.cli.watch import HoleView, cell_style, render

MASK = Cell(text="", state=State.MASK, confidence=0.0)


def final(text: str, confidence: float = 0.95) -> Cell:
    return Cell(text=text, state=State.FINAL, confidence=confidence)


def test_masks_are_shades_between_the_given_texts():
    assert render(("a(", ")\n"), [[final("x"), MASK, MASK]]).plain == "a(x░░)\n"


def test_confidence_is_colour_and_edits_flash():
    styles = [cell_style(final("x", confidence)) for confidence in (0.1, 0.7, 0.95)]
    assert ["red" in styles[0], "yellow" in styles[1], "green" in styles[2]] == [True] * 3
    assert "italic" in cell_style(Cell(text="x", state=State.DRAFT, confidence=0.9))
    assert "reverse" in cell_style(final("x"), is_edited=True)
    text = render(("", ""), [[final("x"), final("y")]], frozenset({(0, 1)}))
    assert ["reverse" in str(span.style) for span in text.spans] == [False, True]


def test_only_the_rows_nearest_the_holes_are_shown():
    before = "".join(f"line {i}\n" for i in range(50))
    shown = render((before, "\nnext\n" + before), [[MASK]], num_rows=4).plain
    assert shown.split("\n") == ["line 48", "line 49", "░", "next"]


def test_a_terminal_gets_frames_within_its_height(folder):
    model = load(folder)
    buffer = io.StringIO()
    console = Console(file=buffer, force_terminal=True, width=60, height=8, color_system="standard")
    request = InfillRequest(
        texts=("x\n" * 100, "\n" + "y\n" * 100), hole_length=2, options=DecodingOptions(steps=2, seed=0)
    )
    with HoleView(console, request.texts, is_kept=True) as view:
        completion = view.follow(model.stream(request))
    drawn = buffer.getvalue()
    assert completion.nfe == 2
    assert "forward 1: 1 tokens written, 1 masks left" in drawn
    assert "forward 2: 2 tokens written, 0 masks left" in drawn
    assert "░" in drawn
    assert "\x1b[" in drawn
    assert max(frame.count("\n") for frame in drawn.split("forward")) < 8
