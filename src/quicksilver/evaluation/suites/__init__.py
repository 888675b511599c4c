"""Suites, one file per family; ``registry`` has them by name."""

from importlib.util import find_spec

from quicksilver.errors import UsageError

_MISSING = [name for name in ("jsonschema", "rapidfuzz") if find_spec(name) is None]
if _MISSING:
    raise UsageError(f"quicksilver eval needs {', '.join(_MISSING)}: pip install 'quicksilver-lm[eval]'")
