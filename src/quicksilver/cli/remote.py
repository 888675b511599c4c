"""Asking a server instead of loading a model: torch is never imported."""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from quicksilver.cli.checking import require_passed
from quicksilver.cli.files import write_text
from quicksilver.client import Client, HoleLimits, ReplyError, RequestOptions
from quicksilver.protocol.decisions import ChoiceAnswer, ChoiceQuestion
from quicksilver.protocol.wire import Usage

DEFAULT_MAX_TOKENS = 256
"""As ``decoding.params`` has it, which would import torch. Sent, because other servers end much sooner."""


class Report:
    """Prints what came of a request, as a model in this process would have it printed."""

    def __init__(self, output: Path | None, seed: int | None, *, is_json: bool, is_verbose: bool) -> None:
        """Start the clock."""
        self._output, self._seed, self._is_json = output, seed, is_json
        self._is_verbose = is_verbose or sys.stderr.isatty()
        self._started = time.monotonic()

    @property
    def is_streamed(self) -> bool:
        """Whether text goes to standard output as it comes."""
        return self._output is None and not self._is_json

    def end(
        self,
        text: str,
        *,
        model: str | None,
        usage: Usage | None,
        finish_reason: str | None,
        holes: list[dict[str, object]] | None = None,
        check: dict[str, object] | None = None,
    ) -> None:
        """Write what is not written yet."""
        seconds = time.monotonic() - self._started
        told = {
            "num_tokens": usage.completion_tokens if usage else None,
            "nfe": usage.nfe if usage else None,
            "tpf": usage.tokens_per_forward if usage else None,
        }
        if self._output is not None:
            write_text(text, self._output)
        if self._is_json:
            body = {"model": model, "text": text, "holes": holes or [{"text": text}], **told}
            body |= {"seconds": round(seconds, 4), "finish_reason": finish_reason, "seed": self._seed}
            body |= {} if check is None else {"check": check}
            write_text(json.dumps(body, indent=2, ensure_ascii=False) + "\n", None)
        if self._is_verbose:
            named = {"tokens": told["num_tokens"], "NFE": told["nfe"], "TPF": told["tpf"], "model": model}
            known = [f"{name} {value}" for name, value in named.items() if value is not None]
            sys.stderr.write(" · ".join([*known, f"{seconds:.2f} s", str(finish_reason)]) + "\n")


def generate(
    server: str, prompt: str, report: Report, *, model: str | None, max_tokens: int | None, decoding: Mapping[str, Any]
) -> None:
    """Print what a server writes, as it comes."""
    options = RequestOptions(**decoding)
    wanted = DEFAULT_MAX_TOKENS if max_tokens is None else max_tokens
    with (
        Client(server, model=model) as client,
        client.stream_complete(prompt, max_tokens=wanted, options=options) as texts,
    ):
        for text in texts:
            if report.is_streamed:
                write_text(text, None)
        reply = texts.reply
    if reply is None:
        raise ReplyError("the stream ended without a result")
    report.end(reply.text, model=reply.model, usage=reply.usage, finish_reason=reply.finish_reason)


def decide(server: str, text: str, *, model: str | None, mark: str, choices: Sequence[str]) -> ChoiceAnswer:
    """What a server says stands at the mark."""
    question = ChoiceQuestion(type="choice", mark=mark, criteria=dict.fromkeys(choices))
    with Client(server, model=model) as client:
        answer = client.decide(text, {"place": question}).answers.get("place")
    if not isinstance(answer, ChoiceAnswer):
        raise ReplyError("the server did not answer the choice")
    return answer


def infill(
    server: str,
    template: str,
    report: Report,
    *,
    model: str | None,
    mark: str,
    limits: HoleLimits,
    layout: str | None,
    check: str | None,
    repairs: int | None,
    decoding: Mapping[str, Any],
) -> None:
    """Print a template whose holes a server filled."""
    with Client(server, model=model) as client:
        holes = [limits] * template.count(mark) if mark and limits != HoleLimits() else None
        filled = client.infill(
            template,
            mark=mark,
            holes=holes,
            layout=layout,
            check=check,
            repairs=repairs,
            options=RequestOptions(**decoding),
        )
    told = None if filled.check is None else filled.check.model_dump(mode="json")
    if report.is_streamed:
        write_text(filled.text, None)
    report.end(
        filled.text,
        model=filled.model,
        usage=filled.usage,
        finish_reason=filled.finish_reason,
        holes=[hole.model_dump(mode="json") for hole in filled.holes],
        check=told,
    )
    require_passed(told)
