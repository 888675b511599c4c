"""DiffusionSpec: how a checkpoint was trained, read by trainer and engine alike (design contract 1).

It travels in the checkpoint's ``config.json`` under the key ``quicksilver``: server and trainer cannot disagree.
"""

from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Self

from quicksilver.errors import ConfigError


class Objective(StrEnum):
    """What the denoiser was trained to undo."""

    MASK = "mask"
    UNIFORM = "uniform"
    HYBRID = "hybrid"
    AUTOREGRESSIVE = "ar"


class Layout(StrEnum):
    """Attention topologies a checkpoint was trained in."""

    BLOCK_CAUSAL = "block_causal"
    """Blocks see themselves and all earlier blocks; block length 1 is causal. Cacheable."""
    IN_PLACE = "in_place"
    """Every position sees every other one; holes stand between prefix and suffix."""


def _reject_unknown(kind: type, values: dict[str, object]) -> None:
    unknown = sorted(set(values) - {f.name for f in fields(kind)})  # pyright: ignore[reportArgumentType]
    if unknown:
        raise ConfigError(
            f"{kind.__name__} has no field {', '.join(unknown)}; known: {', '.join(f.name for f in fields(kind))}"
        )  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True, kw_only=True, slots=True)
class SpecialIds:
    """Token ids with a meaning to the sampler. All different."""

    eos: int
    mask: int
    pad: int | None = None
    """Fills rows of training batches; None: the checkpoint has none of its own (often it is eos)."""
    expand: int | None = None
    """Predicted at a masked position of an in-place hole: make two masks of it (DreamOn)."""
    delete: int | None = None
    """Predicted at a masked position of an in-place hole: drop the position (DreamOn). May be ``eos``, which is not
    written there."""
    fim_prefix: int | None = None
    fim_suffix: int | None = None
    fim_middle: int | None = None
    canvas: int | None = None
    """First token of an in-place document."""
    file: int | None = None
    """First token of a left-to-right document."""

    def __post_init__(self) -> None:
        shared = ("delete",) if self.delete == self.eos else ()
        ids = [value for name, value in asdict(self).items() if value is not None and name not in shared]
        if len(set(ids)) != len(ids):
            raise ConfigError(f"special token ids must all differ, got {asdict(self)}")
        if min(ids) < 0:
            raise ConfigError(f"special token ids must not be negative, got {asdict(self)}")

    @property
    def filler(self) -> int:
        """What fills rows to one length, where nothing is trained or read: pad, or eos where there is no pad."""
        return self.eos if self.pad is None else self.pad


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseRates:
    """Noise the denoiser has seen. Zero means never."""

    uniform_fraction: float = 0.0
    """Share of flipped tokens at t = 1/2 under hybrid noise (GIDD's p_u), in [0, 1)."""
    edit_rate: float = 0.0
    """Share of visible tokens replaced by wrong ones in a block with edit noise, in [0, 1]."""
    has_length_noise: bool = False
    """Trained to predict ``expand`` and ``delete`` in in-place holes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodingDefaults:
    """Calibrated defaults; a request overrides any of them."""

    policy: str = "confidence_threshold"
    threshold: float = 0.9
    edit_threshold: float = 0.9
    max_edits: int | None = 2
    """Of a position, see ``decoding.revisions.TokenEdits``."""
    max_post_steps: int = 4
    """Forwards of a block after its last mask is gone, see there."""
    revision: str = "none"
    """What may happen to drafts, see ``decoding.revisions``; policies that revise by themselves do not read it."""
    temperature: float = 0.0
    sub_block_length: int | None = None
    """Tokens of a block that are decided together, left to right, though all of the block is seen; None: all of it."""
    has_first_alone: bool = False
    """A block's first token, which the last final row predicts, comes before the others. For prediction shift 1."""
    hole_length: int = 8
    """Masks a hole of unknown length starts with, before expand and delete."""
    max_hole_length: int = 64
    length_margin: float = 0.0
    """How much surer than the first look later ones must be to change a hole's length, in [0, 1]; see
    ``decoding.lengths``."""
    cache: str = "exact"
    """Under full attention, see ``decoding.kept_rows``: another one is an approximation whose quality was measured."""
    lengths: str = "median"
    """How a hole of unknown length finds it, see ``decoding.lengths``."""
    ends: str = "held"
    """How a block is written that may hold eos, see ``decoding.ends``."""
    decision_temperature: float = 1.0
    """Divides the scores of labels so that their softmax is calibrated, see ``api.deciding``; above 0."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.length_margin <= 1.0:
            raise ConfigError(f"length_margin must lie in [0, 1], got {self.length_margin}")
        if not self.decision_temperature > 0:
            raise ConfigError(f"decision_temperature must be positive, got {self.decision_temperature}")
        if self.sub_block_length is not None and self.sub_block_length < 1:
            raise ConfigError(f"sub_block_length must be at least 1, got {self.sub_block_length}")


def _read_nested(name: str, kind: type, values: object) -> object:
    if not isinstance(values, dict):
        raise ConfigError(f"{name} must be an object, got {values!r}")
    _reject_unknown(kind, values)
    return kind(**values)


@dataclass(frozen=True, kw_only=True, slots=True)
class DiffusionSpec:
    """Everything about training that decoding must agree with."""

    objective: Objective
    special: SpecialIds
    layouts: tuple[Layout, ...] = (Layout.BLOCK_CAUSAL, Layout.IN_PLACE)
    block_length: int = 16
    """Default block length B; ``trained_block_lengths`` are equally valid at run time."""
    trained_block_lengths: tuple[int, ...] = (16,)
    has_causal_context: bool = False
    """Committed tokens see only what is before them, even within their block. Their rows then also predict the next
    token (whatever ``prediction_shift`` says of masks), and a prompt needs no block grid."""
    has_absolute_grid: bool = False
    """Blocks lie on one grid from the prompt's first token on, so that the prompt's tail shares a block with the first
    tokens of the response. Else the response's grid starts behind the prompt."""
    prediction_shift: int = 0
    """0: row i predicts token i. 1: row i predicts token i + 1, as autoregressive models do."""
    is_mask_predicted: bool = False
    """The softmax that was trained has the mask in it: it is never written all the same, but keeps its probability. As
    all special tokens that are never written."""
    noise: NoiseRates = field(default_factory=NoiseRates)
    decoding: DecodingDefaults = field(default_factory=DecodingDefaults)

    def __post_init__(self) -> None:
        if self.prediction_shift not in (0, 1):
            raise ConfigError(f"prediction_shift must be 0 or 1, got {self.prediction_shift}")
        if self.has_absolute_grid and self.has_causal_context:
            raise ConfigError("has_absolute_grid says where blocks of context lie, and a causal context has none")
        if self.decoding.has_first_alone and not self.prediction_shift:
            raise ConfigError("has_first_alone needs prediction_shift 1: else a block's first row predicts its token")
        if self.continues_in_place and (self.decoding.sub_block_length or self.has_absolute_grid):
            raise ConfigError(
                "sub_block_length and has_absolute_grid are of blocks, which this checkpoint does not know"
            )
        if self.block_length < 1:
            raise ConfigError(f"block_length must be at least 1, got {self.block_length}")
        if not self.layouts:
            raise ConfigError("a checkpoint must have been trained in at least one layout")

    @property
    def continues_in_place(self) -> bool:
        """Whether a prompt is continued under full attention, by masks that stand behind it from the beginning."""
        return Layout.BLOCK_CAUSAL not in self.layouts

    def to_dict(self) -> dict[str, object]:
        """A JSON-ready dictionary; ``from_dict`` is its inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, object]) -> Self:
        """Read a dictionary as written by ``to_dict``; unknown keys are errors."""
        _reject_unknown(cls, values)
        read = dict(values)
        try:
            for name, kind in (("special", SpecialIds), ("noise", NoiseRates), ("decoding", DecodingDefaults)):
                if name in read:
                    read[name] = _read_nested(name, kind, read[name])
            read["objective"] = Objective(str(read["objective"]))
            if "layouts" in read:
                read["layouts"] = tuple(Layout(str(item)) for item in read["layouts"])  # pyright: ignore[reportGeneralTypeIssues, reportUnknownVariableType]
            if "trained_block_lengths" in read:
                read["trained_block_lengths"] = tuple(read["trained_block_lengths"])  # pyright: ignore[reportArgumentType, reportUnknownVariableType]
            return cls(**read)  # pyright: ignore[reportArgumentType]
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"not a diffusion spec: {error}") from error
