"""A checkpoint in our engine, each of whose requests comes with a prompt that the prefix cache does not hold.

Several settings are asked the same one after the other: with a shared cache only the first would pay for the prompt.
"""

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from quicksilver.api import GenerateRequest, InfillRequest
from quicksilver.api.session import timed
from quicksilver.decoding import Commit
from quicksilver.engine.request import Request
from quicksilver.evaluation.subject import Answer, Ask
from quicksilver.evaluation.subjects.engine import EngineSubject, answer_of

_tenants = itertools.count(1)


def cold(request: Request) -> Request:
    """The request as one of a tenant that nobody else is: nothing of it is cached."""
    return replace(request, tenant=next(_tenants).to_bytes(8, "little"))


@dataclass(frozen=True, kw_only=True, slots=True)
class ColdSubject(EngineSubject):
    """Also tells when the first token was committed."""

    def fill(self, texts: Sequence[str], ask: Ask) -> Answer:
        return self._run(self.request(texts, ask))

    def complete(self, prompt: str, ask: Ask) -> Answer:
        return self._run(GenerateRequest(prompt=prompt, max_tokens=ask.max_tokens, options=self._options(ask)))

    def _run(self, request: GenerateRequest | InfillRequest) -> Answer:
        plan, first_s = self.model.plan(request), None
        start = time.perf_counter()
        for job in plan.jobs:
            for event in timed(plan.session, self.model.engine.stream(cold(job))):
                if first_s is None and isinstance(event, Commit):
                    first_s = time.perf_counter() - start
        return replace(answer_of(plan.completion()), first_text_s=first_s)
