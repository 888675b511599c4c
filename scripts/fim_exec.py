r"""Make the list of holes of `quicksilver eval fim-exec`: try every place, keep those whose tests notice.

Examples:
  python scripts/fim_exec.py --package networkx-3.6.1-py3-none-any.whl      # half an hour on two cores
"""

from pathlib import Path
from typing import Annotated

import typer

from quicksilver.evaluation.data import file_hash
from quicksilver.evaluation.suites import fim_exec
from quicksilver.evaluation.suites.execution import verdicts
from quicksilver.evaluation.suites.filling import Length
from quicksilver.sandbox import Limits, Sandbox

ROOT = Path(__file__).parents[1]
# Half of what the suite allows and more, so that a slower machine judges alike.
LIMITS = Limits(wall_s=240.0, cpu_s=20.0, memory_mb=2048)


def main(
    package: Annotated[Path, typer.Option(metavar="WHEEL", help=f"Of {fim_exec.RELEASE}.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The list.")] = ROOT / "data/eval" / fim_exec.HOLES,
) -> None:
    """Try every place and write the list."""
    root = fim_exec.package_root(package)
    places = list(fim_exec.find_places(root))
    sandbox = Sandbox("fast", LIMITS)
    suite = fim_exec.suite_of(places, root, sandbox, length=Length.UNKNOWN, source={})
    pairs = list(zip(places, suite.items(), strict=True))
    first_of = {place.module: item for place, item in pairs}
    programs = (suite.program(item, item.middle) for item in first_of.values())
    passing = set()
    for module, verdict in zip(first_of, verdicts(sandbox, programs), strict=True):
        if verdict.is_passed:
            passing.add(module)
        else:
            typer.echo(f"{module}: {verdict.outcome}: {verdict.detail}")
    tried = [(place, item) for place, item in pairs if place.module in passing]
    wrong = (next(iter(suite.wrong(item).values())).text for _, item in tried)
    programs = (suite.program(item, text) for (_, item), text in zip(tried, wrong, strict=True))
    kept = []
    with typer.progressbar(zip(tried, verdicts(sandbox, programs), strict=True), length=len(tried)) as bar:
        for (place, _), verdict in bar:
            if not verdict.is_passed:
                kept.append(place)
    counts = {
        kind: [sum(each.kind == kind for each in group) for group in (kept, places)]
        for kind in (fim_exec.BODY, fim_exec.STATEMENT)
    }
    remarks = [
        f"{fim_exec.RELEASE}, wheel {file_hash(package)}; above: the modules and their tests",
        "made by scripts/fim_exec.py: "
        + ", ".join(f"{had} of {of} of kind {kind}" for kind, (had, of) in counts.items()),
        "module, function, kind, first line, last line",
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    fim_exec.write_places(out, kept, root, remarks)
    typer.echo("\n".join(remarks))


if __name__ == "__main__":
    typer.run(main)
