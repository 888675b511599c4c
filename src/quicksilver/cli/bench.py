"""`quicksilver bench`: quality against speed, and a server under load."""

import typer

from quicksilver.cli import bench_frontier, bench_serve
from quicksilver.cli.options import examples

app = typer.Typer(name="bench", help="Measure quality against speed, and a server under load.", no_args_is_help=True)
app.command("frontier", epilog=examples(bench_frontier.EXAMPLES))(bench_frontier.command)
app.command("serve", epilog=examples(bench_serve.EXAMPLES))(bench_serve.command)
