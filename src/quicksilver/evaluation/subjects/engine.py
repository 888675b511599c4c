"""A checkpoint in our own engine, diffusion or autoregressive."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from quicksilver.api import Completion, DecodingOptions, GenerateRequest, InfillLayout, InfillRequest, Model
from quicksilver.evaluation.subject import Answer, Ask


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSubject:
    """A loaded model with fixed options."""

    name: str
    model: Model
    layout: InfillLayout | None = None
    """Of holes; None: the checkpoint's."""
    options: DecodingOptions = field(default_factory=DecodingOptions)
    """Seed, temperature and stop are the question's."""
    identity: Mapping[str, object] = field(default_factory=dict)
    """Hash of the weights and the like."""

    def about(self) -> Mapping[str, object]:
        return {
            "name": self.name,
            "engine": "quicksilver",
            "layout": self.layout,
            "policy": repr(self.options.resolve_policy(self.model.spec)),
            "options": asdict(self.options),
            **self.identity,
        }

    def count_tokens(self, text: str) -> int | None:
        return len(self.model.tokenizer.encode(text))

    def fill(self, texts: Sequence[str], ask: Ask) -> Answer:
        """In place a given length is exact; in layout psm, where the model ends the hole itself, a limit."""
        request = InfillRequest(texts=tuple(texts), layout=self.layout, options=self._options(ask))
        if ask.hole_length is None:
            request = replace(request, max_hole_length=ask.max_tokens)
        elif request.resolve_layout(self.model.spec) is InfillLayout.IN_PLACE:
            request = replace(request, hole_length=ask.hole_length)
        else:
            request = replace(request, max_hole_length=ask.hole_length)
        return _answer(self.model.run(request))

    def complete(self, prompt: str, ask: Ask) -> Answer:
        request = GenerateRequest(prompt=prompt, max_tokens=ask.max_tokens, options=self._options(ask))
        return _answer(self.model.run(request))

    def _options(self, ask: Ask) -> DecodingOptions:
        return replace(self.options, seed=ask.seed, temperature=ask.temperature, stop=ask.stop)


def _answer(completion: Completion) -> Answer:
    return Answer(
        texts=tuple(hole.text for hole in completion.holes),
        num_tokens=completion.num_tokens,
        nfe=completion.nfe,
        seconds=completion.seconds,
        finish_reason=completion.finish_reason,
    )
