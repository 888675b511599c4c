"""What a caller asks of the engine, checked against the checkpoint before any work is done."""

from dataclasses import dataclass, field

from quicksilver.decoding.inplace import Hole, Segment
from quicksilver.decoding.params import SamplingParams
from quicksilver.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Continuation:
    """Continue a prompt: block by block, or token by token if the checkpoint is autoregressive."""

    prompt_ids: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Filling:
    """Fill the holes of a template in place, all together."""

    template: tuple[Segment, ...]

    @property
    def holes(self) -> tuple[Hole, ...]:
        return tuple(segment for segment in self.template if isinstance(segment, Hole))


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One job of the engine."""

    task: Continuation | Filling
    params: SamplingParams = field(default_factory=SamplingParams)
    priority: int = 0
    """Smaller goes first."""
    deadline_ms: float | None = None
    """Milliseconds after submission by which the answer must be there; what is still open then is committed at once."""
    may_follow_load: bool = False
    """Whether blocks may get shorter while many requests run. Never for a request whose seed its caller chose: its
    decisions must not depend on who else is there."""
    block_lengths: tuple[int, ...] = ()
    """Lengths of a continuation's blocks, in order, as an earlier run had them under load; see ``replay``. Blocks
    behind them follow ``params``."""
    tenant: bytes = b""
    """Only requests of one tenant share cached prefixes."""
    has_frames: bool = False
    """Whether every step reports the whole canvas."""

    def __post_init__(self) -> None:
        if self.deadline_ms is not None and not self.deadline_ms > 0:
            raise ConfigError(f"deadline_ms must be positive, got {self.deadline_ms}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What a request took."""

    nfe: int
    """Denoising forwards, all of them counted; commits ride along."""
    num_forwards: int
    """Forwards with rows of the request: ``nfe`` and those that only read its prompt."""
    num_written: int
    """Tokens of the result."""
    num_edits: int
    num_prompt: int
    num_cached: int
    """Positions taken over from the prefix cache."""
    num_preemptions: int
    num_stale_forwards: int
    """Forwards that read keys and values of rows as an earlier one had computed them; see ``decoding.kept_rows``."""
    num_stale_rows: int
    """Those rows, summed over these forwards."""
    queue_seconds: float
    seconds: float

    @property
    def tpf(self) -> float:
        """Tokens per denoising forward."""
        return self.num_written / self.nfe if self.nfe else 0.0
