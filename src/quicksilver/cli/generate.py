"""`quicksilver generate`: continue a prompt."""

from pathlib import Path
from typing import Annotated, Any

import typer

from quicksilver.cli import options, ranks
from quicksilver.cli.constraining import described, read_constraint
from quicksilver.cli.files import read_text, write_text
from quicksilver.cli.terminal import loading_bar
from quicksilver.errors import InputError

EXAMPLES = r"""quicksilver generate 'def fibonacci(n):'
quicksilver generate --file start.py --max-tokens 64 --watch
quicksilver generate 'def area(r):' --stop 'def ' --deadline-ms 500
quicksilver generate 'point = ' --json-schema point.json --max-tokens 60
quicksilver generate 'def area(r):' --server http://127.0.0.1:8080
torchrun --nproc-per-node 2 -m quicksilver generate 'def area(r):'      # two processes: docs/parallel.md
git show HEAD:setup.py | quicksilver generate - --temperature 0.8 --seed 7 --json"""


def command(
    context: typer.Context,
    prompt: Annotated[str | None, typer.Argument(metavar="[PROMPT]", help="The prompt; - is standard input.")] = None,
    file: Annotated[Path | None, typer.Option(metavar="FILE", help="Take the prompt from this UTF-8 file.")] = None,
    model: options.Model = options.DEFAULT_MODEL,
    server: options.Server = None,
    server_model: options.ServerModel = None,
    max_tokens: Annotated[int | None, typer.Option(metavar="N", help="Most tokens to write. [default: 256]")] = None,
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
    json_schema: options.JsonSchema = None,
    regex: options.Regex = None,
    grammar: options.Grammar = None,
    choice: options.Choice = None,
    require: options.Require = None,
    ban: options.Ban = None,
    max_nfe: options.MaxNfe = None,
    deadline_ms: options.DeadlineMs = None,
    seed: options.Seed = None,
    output: options.Output = None,
    trace: options.Trace = None,
    as_json: options.AsJson = False,
    watch: options.Watch = False,
    verbose: options.Verbose = False,
    device: options.Device = None,
    dtype: options.Dtype = None,
    quantize: options.Quantize = None,
) -> None:
    """Continue a prompt and print what follows it."""
    # Long because every option is a parameter.
    if server is None:
        ranks.follow_unless_first(model, device, dtype=dtype, quantize=quantize)
    if (prompt is None) == (file is None):
        raise InputError("give either PROMPT (or -) or --file, " + ("not both" if file else "there is neither"))
    text = read_text(file) if file is not None else read_text("-") if prompt == "-" else prompt or ""

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
        "stop": tuple(stop or ()),
        "max_nfe": max_nfe,
        "deadline_ms": deadline_ms,
        "seed": seed,
    }
    wanted = read_constraint(json_schema, regex, grammar, choice, require, ban)
    local = ("model", "device", "dtype", "quantize", "trace", "watch")
    if options.asks_server(context, server, server_model, *local):
        from quicksilver.cli import remote

        report = remote.Report(output, seed, is_json=as_json, is_verbose=verbose)
        remote.generate(
            server or "",
            text,
            report,
            model=server_model,
            max_tokens=max_tokens,
            decoding=decoding | {"constraint": wanted},
        )
        return

    with loading_bar(f"loading {model}") as progress:
        from quicksilver.api import DecodingOptions, GenerateRequest
        from quicksilver.cli.running import follow, print_cost, to_json, traced

        request = GenerateRequest(
            prompt=text, max_tokens=max_tokens, options=DecodingOptions(**decoding, constraint=described(wanted))
        )
        loaded = ranks.load(context, model, device, dtype=dtype, quantize=quantize, progress=progress)
    with traced(loaded, model, trace):
        completion = follow(loaded, request, is_watched=watch)
    if output is not None or not as_json:
        write_text(completion.text, output)
    if as_json:
        write_text(to_json(loaded, completion), None)
    print_cost(completion, is_verbose=verbose)
