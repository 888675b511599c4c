"""What a model would take of a device's memory, for a person."""

from rich import box
from rich.console import Console
from rich.table import Table

from quicksilver.cli.terminal import spinner


def show_plan(
    model: str,
    *,
    device: str | None,
    dtype: str | None,
    quantize: str | None,
    num_pages: int | None,
    num_ranks: int = 1,
) -> None:
    """Print it, per process; raises ConfigError, which says what would fit, if it does not."""
    with spinner(f"reading {model} …"):
        from quicksilver.api.loading import find_model, plan_folder, resolve_device
        from quicksilver.checkpoints.loading import open_folder
        from quicksilver.engine.engine import EngineConfig
        from quicksilver.engine.planning import gigabytes, require_fit
        from quicksilver.models.parallel import share_of

        plan = plan_folder(
            model, device=device, dtype=dtype, quantize=quantize, num_pages=num_pages, num_ranks=num_ranks
        )
        config, target = share_of(open_folder(find_model(model)).config, num_ranks), resolve_device(device)
        engine = EngineConfig(num_pages=num_pages)
    kind = str(plan.dtype).removeprefix("torch.")
    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column(style="dim")
    count = config.num_parameters
    parameters = (
        f"{count / 1e9:.2f}B parameters in {kind}" if count >= 1e9 else f"{count / 1e6:.1f}M parameters in {kind}"
    )
    scheme = "" if plan.scheme is None else f", projections {plan.scheme}"
    table.add_row("weights", gigabytes(plan.weights), parameters + scheme)
    positions = f"{plan.num_pages} pages of {engine.page_size} tokens in {kind} (--num-pages)"
    table.add_row("pages", gigabytes(plan.pages), positions)
    table.add_row("workspace", gigabytes(plan.workspace), f"the process, and forwards of {engine.row_budget} rows")
    table.add_section()
    table.add_row("needed", gigabytes(plan.total), "")
    table.add_row("free", gigabytes(plan.available), f"on {target.type}")
    if num_ranks > 1:
        table.caption = f"for each of {num_ranks} processes"
    Console().print(table)
    require_fit(config, engine, plan, target, model)
