"""A checkpoint in our own engine, diffusion or autoregressive."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from quicksilver.api import Completion, DecodingOptions, GenerateRequest, InfillLayout, InfillRequest, Model, load
from quicksilver.api.loading import find_model
from quicksilver.api.requests import parse_layout
from quicksilver.checkpoints.folder import model_hash
from quicksilver.checkpoints.loading import Progress
from quicksilver.decoding import Policy
from quicksilver.diffusion.spec import DiffusionSpec
from quicksilver.errors import ContextLengthError
from quicksilver.evaluation.subject import TOO_LONG, Answer, Ask, unanswered
from quicksilver.evaluation.subjects.settings import Settings


@dataclass(frozen=True, kw_only=True, slots=True)
class ExactPolicy(DecodingOptions):
    """Options with a policy object, for settings that have no option of their own."""

    exact_policy: Policy | None
    """None: the checkpoint's; must be None where that is autoregressive."""

    def resolve_policy(self, spec: DiffusionSpec) -> Policy | None:
        """The policy as given; the sampler still checks it against the checkpoint."""
        return self.exact_policy


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
        return answer_of(self.model.run(self.request(texts, ask)))

    def request(self, texts: Sequence[str], ask: Ask) -> InfillRequest:
        """In place a given length is exact; in layout psm, where the model ends the hole itself, a limit."""
        request = InfillRequest(texts=tuple(texts), layout=self.layout, options=self._options(ask))
        if ask.hole_length is None:
            return replace(request, max_hole_length=ask.max_tokens)
        if request.resolve_layout(self.model.spec) is InfillLayout.IN_PLACE:
            return replace(request, hole_length=ask.hole_length)
        return replace(request, max_hole_length=ask.hole_length)

    def complete(self, prompt: str, ask: Ask) -> Answer:
        request = GenerateRequest(prompt=prompt, max_tokens=ask.max_tokens, options=self._options(ask))
        try:
            return answer_of(self.model.run(request))
        except ContextLengthError:
            pass
        try:
            # As much as the context leaves, which is less than was asked for.
            return answer_of(self.model.run(replace(request, max_tokens=None)))
        except ContextLengthError:
            return unanswered(TOO_LONG)

    def decide(self, before: str, after: str, labels: Sequence[str]) -> Answer:
        start = time.perf_counter()
        found = self.model.decide(before, after, labels)
        seconds = time.perf_counter() - start
        nats = {"scores": found.scores, "probabilities": found.probabilities}
        return Answer(
            texts=(found.label,), num_tokens=0, nfe=found.nfe, seconds=seconds, finish_reason="read", nats=nats
        )

    def _options(self, ask: Ask) -> DecodingOptions:
        return replace(self.options, seed=ask.seed, temperature=ask.temperature, stop=ask.stop)


def answer_of(completion: Completion) -> Answer:
    """What a suite sees of it."""
    return Answer(
        texts=tuple(hole.text for hole in completion.holes),
        num_tokens=completion.num_tokens,
        nfe=completion.nfe,
        seconds=completion.seconds,
        finish_reason=completion.finish_reason,
    )


def load_subject(spec: str, settings: Settings, progress: Progress | None = None) -> EngineSubject:
    """A checkpoint folder, or a bundled model by name.

    Raises:
        CheckpointError, ConfigError: as ``quicksilver.load``; or the options contradict each other or the checkpoint.
    """
    folder = find_model(spec)
    options, layout = DecodingOptions(**settings.decoding), parse_layout(settings.layout)
    model = load(
        spec,
        device=settings.device,
        dtype=settings.dtype,
        quantize=settings.quantize,
        max_length=settings.context,
        progress=progress,
    )
    # What can never be asked is refused before the first question.
    options.resolve_policy(model.spec)
    if layout is not None:
        InfillRequest(texts=("", ""), layout=layout, options=options).resolve_layout(model.spec)
    identity = {
        "weights": str(spec),
        "weights_sha256": model_hash(folder),
        "dtype": str(model.engine.denoiser.model.embed_tokens.weight.dtype).removeprefix("torch."),
        "device": str(model.engine.denoiser.model.embed_tokens.weight.device),
        "quantize": settings.quantize,
        "context": model.max_length,
    }
    return EngineSubject(name=model.name, model=model, layout=layout, options=options, identity=identity)
