"""How to decode, as a request says it. None leaves a choice to the server."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from quicksilver.errors import ConfigError
from quicksilver.protocol.constraints import ConstraintFields
from quicksilver.protocol.sampling import Effort


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestOptions:
    """Those from ``policy`` on are Quicksilver's; other servers ignore or refuse them."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    """Texts before which the answer ends."""
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Added to the logits of token ids."""
    reasoning_effort: Effort | None = None
    policy: str | None = None
    threshold: float | None = None
    steps: int | None = None
    revision: str | None = None
    guidance: float | None = None
    cfg_until: float | None = None
    negative_prompt: str | None = None
    classifier: str | None = None
    classifier_scale: float | None = None
    block_length: int | None = None
    cache: str | None = None
    refresh_every: int | None = None
    max_nfe: int | None = None
    deadline_ms: float | None = None
    constraint: ConstraintFields | None = None
    """What the answer must be, or each hole."""
    realtime: bool = False
    extra: Mapping[str, object] = field(default_factory=dict)
    """Further fields of the body, for what other servers understand."""

    def __post_init__(self) -> None:
        names = {each.name for each in fields(self)} | set(ConstraintFields.model_fields)
        clash = sorted(names & set(self.extra))
        if clash:
            raise ConfigError(f"extra names {', '.join(clash)}: set the options of that name instead")

    def body(self) -> dict[str, object]:
        """The fields of the request that are given."""
        plain = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in _SHAPED}
        body = {name: value for name, value in plain.items() if value is not None}
        if self.stop:
            body["stop"] = list(self.stop)
        if self.logit_bias:
            body["logit_bias"] = {str(token): bias for token, bias in self.logit_bias.items()}
        if self.constraint is not None:
            body |= self.constraint.model_dump(mode="json", by_alias=True, exclude_unset=True)
        if self.realtime:
            body["realtime"] = True
        return body | dict(self.extra)


_SHAPED = frozenset({"stop", "logit_bias", "constraint", "realtime", "extra"})
NO_OPTIONS = RequestOptions()
"""Everything is the server's choice."""
