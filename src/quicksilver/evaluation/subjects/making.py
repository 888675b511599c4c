"""From a name on the command line to a subject."""

from collections.abc import Callable

from quicksilver.errors import ConfigError
from quicksilver.evaluation.subject import Subject
from quicksilver.evaluation.subjects.settings import Settings


def make_subject(
    spec: str, settings: Settings | None = None, *, progress: Callable[[int, int], None] | None = None
) -> Subject:
    """Load or reach a subject.

    Args:
        spec: a checkpoint folder or a bundled model's name.
        settings: how it decodes; None: everything is its own choice.
        progress: told the bytes loaded and those of all weights.

    Raises:
        ConfigError: there is no such kind of subject, or it cannot honour a setting.
        CheckpointError: there is no such model.
    """
    if spec.startswith(("http://", "https://")):
        raise ConfigError(f"{spec}: servers cannot be asked yet")
    from quicksilver.evaluation.subjects.engine import load_subject  # other kinds need no torch

    return load_subject(spec, settings or Settings(), progress)
