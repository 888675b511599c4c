"""Any server of OpenAI's API, asked through this project's client: ours, or another engine's."""

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, NoReturn

from quicksilver.client import Client, HoleLimits, InfillResponse, RefusedError, ReplyError, RequestOptions, TextStream
from quicksilver.client.options import NO_OPTIONS
from quicksilver.errors import ConfigError
from quicksilver.evaluation.subject import Answer, Ask
from quicksilver.protocol.wire import Usage

_NO_SUCH_ROUTE = frozenset({404, 405})


@dataclass(frozen=True, kw_only=True, slots=True)
class HttpSubject:
    """A server with fixed options. Everything is streamed, to see when the first text that stays arrives.

    One hole without a given length is the completions route with a suffix, which others have too; several holes, a
    given length or a layout go to ``/v1/infill``, which is this project's. A server that ignores a seed, a temperature
    or a stop cannot be told from one that heeds it.
    """

    name: str
    client: Client
    layout: str | None = None
    """Of holes: ``in_place`` or ``psm``. None: the server's choice."""
    options: RequestOptions = NO_OPTIONS
    """Seed, temperature and stop are the question's."""

    def about(self) -> Mapping[str, object]:
        return {
            "name": self.name,
            "engine": "http",
            "server": self.client.connection.base_url,
            "model": self.client.connection.model,
            "layout": self.layout,
            "options": asdict(self.options),
        }

    def count_tokens(self, text: str) -> int | None:
        return None

    def fill(self, texts: Sequence[str], ask: Ask) -> Answer:
        options = self._options(ask)
        if len(texts) == 2 and ask.hole_length is None and self.layout is None:
            return _followed(self.client.stream_fill(*texts, max_tokens=ask.max_tokens, options=options))
        limits = HoleLimits(max_length=ask.max_tokens)
        if ask.hole_length is not None and self.layout == "psm":  # there the model ends the hole itself
            limits = HoleLimits(max_length=ask.hole_length)
        elif ask.hole_length is not None:
            limits = HoleLimits(length=ask.hole_length)
        return self._infill(texts, limits, options)

    def complete(self, prompt: str, ask: Ask) -> Answer:
        return _followed(self.client.stream_complete(prompt, max_tokens=ask.max_tokens, options=self._options(ask)))

    def _options(self, ask: Ask) -> RequestOptions:
        return replace(self.options, seed=ask.seed, temperature=ask.temperature, stop=ask.stop)

    def _infill(self, texts: Sequence[str], limits: HoleLimits, options: RequestOptions) -> Answer:
        mark = _unused_mark(texts)
        start, first_s, done = time.perf_counter(), None, None
        stream = self.client.stream_infill(
            mark.join(texts), mark=mark, holes=[limits] * (len(texts) - 1), layout=self.layout, options=options
        )
        try:
            with stream:
                for event in stream:
                    if first_s is None and event.type == "commit":
                        first_s = time.perf_counter() - start
                    done = event.response or done
        except RefusedError as error:
            if error.status in _NO_SUCH_ROUTE:
                raise ConfigError(
                    f"{self.client.connection.base_url} has no route infill, so it cannot be asked for several holes, "
                    f"a given length or a layout"
                ) from error
            raise
        seconds = time.perf_counter() - start
        if done is None:
            _raise_without_end()
        return _filled(done, seconds, first_s)


def http_subject(
    url: str, *, model: str | None = None, layout: str | None = None, decoding: Mapping[str, Any] | None = None
) -> HttpSubject:
    """A server by its URL; the key comes from QUICKSILVER_API_KEY, as ``client.Connection`` says.

    Args:
        url: of its API.
        model: which of the server's; None: its choice.
        layout: of holes; None: the server's choice.
        decoding: fields of ``RequestOptions``, by name.

    Raises:
        ConfigError: it is no URL, or there is no such field.
    """
    given = dict(decoding or {})
    unknown = sorted(set(given) - {each.name for each in fields(RequestOptions)})
    if unknown:
        raise ConfigError(f"a server cannot be told {', '.join(unknown)}")
    client = Client(url, model=model)
    name = f"{model or 'the model'} at {client.connection.base_url}"
    return HttpSubject(name=name, client=client, layout=layout, options=RequestOptions(**given))


def _followed(stream: TextStream) -> Answer:
    start, first_s = time.perf_counter(), None
    with stream:
        for _ in stream:
            first_s = first_s or time.perf_counter() - start
        seconds = time.perf_counter() - start
        reply = stream.reply
    if reply is None:
        _raise_without_end()
    usage = _told(reply.usage)
    return Answer(
        texts=(reply.text,),
        num_tokens=usage.completion_tokens,
        nfe=usage.nfe,
        seconds=seconds,
        finish_reason=reply.finish_reason or "",
        first_text_s=first_s,
    )


def _filled(response: InfillResponse, seconds: float, first_s: float | None) -> Answer:
    return Answer(
        texts=tuple(hole.text for hole in response.holes),
        num_tokens=response.usage.completion_tokens,
        nfe=response.usage.nfe,
        seconds=seconds,
        finish_reason=response.finish_reason,
        first_text_s=first_s,
    )


def _told(usage: Usage | None) -> Usage:
    if usage is None:
        raise ReplyError(
            "the server does not say how many tokens it wrote (usage in the stream's last event), so its speed cannot "
            "be told"
        )
    return usage


def _raise_without_end() -> NoReturn:
    raise ReplyError("the stream ended without a result")


def _unused_mark(texts: Sequence[str]) -> str:
    """A mark of holes that occurs in no text, nor where two meet it."""
    whole = "".join(texts)
    return next(mark for number in itertools.count() if (mark := f"<FILL-{number}>") not in whole)
