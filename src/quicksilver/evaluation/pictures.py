"""matplotlib, where it is installed, without a window."""

from importlib.util import find_spec
from types import ModuleType

from quicksilver.errors import ConfigError


def require_matplotlib() -> None:
    """Raises ConfigError if matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        raise ConfigError("pictures need matplotlib: pip install 'quicksilver-lm[train]'")


def pyplot() -> ModuleType:
    """The module; raises ConfigError if it is not installed."""
    require_matplotlib()
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    return plt
