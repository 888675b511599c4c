"""`quicksilver infill`: fill the holes of a file."""

from typing import Annotated, Any

import typer

from quicksilver.cli import options, ranks
from quicksilver.cli.constraining import described, read_constraint
from quicksilver.cli.files import read_text, write_text
from quicksilver.cli.terminal import loading_bar
from quicksilver.errors import ConfigError

EXAMPLES = r"""printf 'def mean(xs):\n    return <FILL>\n' | quicksilver infill -
quicksilver infill draft.py --watch --output draft.py
quicksilver infill draft.py --mark '???' --hole-length 6
quicksilver infill draft.py --one-line
quicksilver infill draft.py --policy entropy_bound --seed 7 --json
quicksilver infill draft.py --server http://127.0.0.1:8080
quicksilver infill draft.py --regex '[a-z_]+\(.*\)'
quicksilver infill draft.py --choice left --choice right
quicksilver infill draft.py --cache dual --refresh-every 8
quicksilver infill draft.py --one-line --check python
quicksilver infill draft.py --check-command 'mypy {}' --repairs 5"""


def command(
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="FILE", help="UTF-8 file with holes; - is standard input.")],
    model: options.Model = options.DEFAULT_MODEL,
    server: options.Server = None,
    server_model: options.ServerModel = None,
    mark: Annotated[
        str, typer.Option(metavar="TEXT", help="What stands for a hole; all holes are filled together.")
    ] = "<FILL>",
    hole_length: Annotated[
        int | None, typer.Option(metavar="N", help="Exact tokens of every hole. [default: the model finds it]")
    ] = None,
    max_hole_length: Annotated[
        int | None, typer.Option(metavar="N", help="Most tokens of every hole. [default: the model's]")
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(metavar="in_place|psm", help="Holes in place, or after prefix and suffix. [default: the model's]"),
    ] = None,
    policy: options.Policy = None,
    threshold: options.Threshold = None,
    steps: options.Steps = None,
    revision: options.Revision = None,
    guidance: options.Guidance = None,
    cfg_until: options.CfgUntil = None,
    negative_prompt: options.NegativePrompt = None,
    classifier: options.Classifier = None,
    classifier_scale: options.ClassifierScale = None,
    block_length: options.BlockLength = None,
    temperature: options.Temperature = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    stop: options.Stop = None,
    one_line: Annotated[bool, typer.Option("--one-line", help="End every hole at its first line end.")] = False,
    json_schema: options.JsonSchema = None,
    regex: options.Regex = None,
    grammar: options.Grammar = None,
    choice: options.Choice = None,
    require: options.Require = None,
    ban: options.Ban = None,
    max_nfe: options.MaxNfe = None,
    deadline_ms: options.DeadlineMs = None,
    cache: options.Cache = None,
    refresh_every: options.RefreshEvery = None,
    seed: options.Seed = None,
    check: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Write anew what does not pass: python parses, compiles and lints the filled file; with --server "
            "also checks of the server's.",
        ),
    ] = None,
    check_command: Annotated[
        str | None,
        typer.Option(
            metavar="COMMAND",
            help="The same by a command that fails on a wrong file; {} is the file, else it comes by standard input.",
        ),
    ] = None,
    repairs: Annotated[
        int | None, typer.Option(min=0, max=16, metavar="N", help="Most rounds of that; 0 only checks. [default: 3]")
    ] = None,
    output: options.Output = None,
    trace: options.Trace = None,
    as_json: options.AsJson = False,
    watch: options.Watch = False,
    verbose: options.Verbose = False,
    device: options.Device = None,
    dtype: options.Dtype = None,
    quantize: options.Quantize = None,
) -> None:
    """Fill the holes of a file and print it. Everything outside the holes stays as it is, byte for byte.

    Of a file longer than the model's context the model sees the lines nearest the holes. With a check the exit status
    is 1 if the file does not pass it at last.
    """
    # Long because every option is a parameter.
    if server is None:
        ranks.follow_unless_first(model, device, dtype=dtype, quantize=quantize)
    text = read_text(source)

    decoding: dict[str, Any] = {
        "policy": policy,
        "threshold": threshold,
        "steps": steps,
        "revision": revision,
        "guidance": guidance,
        "cfg_until": cfg_until,
        "negative_prompt": negative_prompt,
        "classifier": classifier,
        "classifier_scale": classifier_scale,
        "block_length": block_length,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "stop": (*(stop or ()), *(["\n"] if one_line else [])),
        "max_nfe": max_nfe,
        "deadline_ms": deadline_ms,
        "cache": cache,
        "refresh_every": refresh_every,
        "seed": seed,
    }
    wanted = read_constraint(json_schema, regex, grammar, choice, require, ban)
    _require_one_check(check, check_command, repairs, is_watched=watch)
    local = ("model", "device", "dtype", "quantize", "trace", "watch", "check_command")
    if options.asks_server(context, server, server_model, *local):
        from quicksilver.cli import remote

        report = remote.Report(output, seed, is_json=as_json, is_verbose=verbose)
        limits = remote.HoleLimits(length=hole_length, max_length=max_hole_length)
        remote.infill(
            server or "",
            text,
            report,
            model=server_model,
            mark=mark,
            limits=limits,
            layout=layout,
            check=check,
            repairs=repairs,
            decoding=decoding | {"constraint": wanted},
        )
        return

    with loading_bar(f"loading {model}") as progress:
        from quicksilver.api import DecodingOptions, InfillRequest, split_template
        from quicksilver.api.requests import parse_layout
        from quicksilver.cli.checking import find_check, outcome, require_passed
        from quicksilver.cli.running import follow, follow_checked, print_cost, to_json, traced

        request = InfillRequest(
            texts=split_template(text, mark),
            hole_length=hole_length,
            max_hole_length=max_hole_length,
            layout=parse_layout(layout),
            options=DecodingOptions(**decoding, constraint=described(wanted)),
        )
        judge = find_check(check, check_command, source)
        loaded = ranks.load(context, model, device, dtype=dtype, quantize=quantize, progress=progress)
    with traced(loaded, model, trace):
        if judge is None:
            completion = follow(loaded, request, is_watched=watch)
        else:
            completion = follow_checked(loaded, request, judge, repairs)
    if output is not None or not as_json:
        write_text(completion.text, output)
    if as_json:
        write_text(to_json(loaded, completion), None)
    print_cost(completion, is_verbose=verbose)
    require_passed(None if completion.check is None else outcome(completion.check))


def _require_one_check(check: str | None, command: str | None, repairs: int | None, *, is_watched: bool) -> None:
    if check is not None and command is not None:
        raise ConfigError("--check and --check-command contradict each other: a file is checked in one way")
    if check is None and command is None:
        if repairs is not None:
            raise ConfigError("--repairs needs --check or --check-command")
    elif is_watched:
        raise ConfigError("--watch shows one draft, a check may take several: leave one of them out")
