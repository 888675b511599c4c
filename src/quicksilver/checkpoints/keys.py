"""Reading a foreign ``config.json`` without ignoring anything silently (design contract 10)."""

from collections.abc import Mapping

from quicksilver.errors import ConfigError

_INERT = frozenset(
    {
        "_attn_implementation_autoset",
        "_name_or_path",
        "architectures",
        "attn_implementation",
        "auto_map",
        "bos_token_id",
        "dtype",
        "eos_token_id",
        "initializer_range",
        "model_type",
        "pad_token_id",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    }
)
"""Known everywhere to change nothing in the network."""


class Keys:
    """A configuration that remembers what was read of it.

    A key that is neither read, nor fixed to the values that are supported, nor named as inert is an error.
    """

    def __init__(self, values: Mapping[str, object], where: str = "config.json") -> None:
        self._values, self.where = values, where
        self._known = set(_INERT)

    def __contains__(self, name: str) -> bool:
        return self._values.get(name) is not None

    def integer(self, name: str, default: int | None = None) -> int:
        """A whole number; raises ConfigError if it is none, or missing without a default."""
        value = self._get(name, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise ConfigError(f"{self.where} sets {name} = {value!r}; it must be an integer")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A number, whole or not."""
        value = self._get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"{self.where} sets {name} = {value!r}; it must be a number")
        return float(value)

    def flag(self, name: str, *, default: bool | None = None) -> bool:
        """True or false."""
        value = self._get(name, default)
        if not isinstance(value, bool):
            raise ConfigError(f"{self.where} sets {name} = {value!r}; it must be true or false")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """A text."""
        value = self._get(name, default)
        if not isinstance(value, str):
            raise ConfigError(f"{self.where} sets {name} = {value!r}; it must be a text")
        return value

    def integers(self, name: str) -> tuple[int, ...]:
        """A list of whole numbers, or one; none where the key is missing."""
        value = self._get(name, [])
        found = value if isinstance(value, list) else [value]
        whole = [each for each in found if isinstance(each, int) and not isinstance(each, bool)]
        if len(whole) != len(found):
            raise ConfigError(f"{self.where} sets {name} = {value!r}; it must hold integers")
        return tuple(whole)

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts; none where the key is missing."""
        value = self._get(name, [])
        found = value if isinstance(value, list) else [value]
        texts = [each for each in found if isinstance(each, str)]
        if len(texts) != len(found):
            raise ConfigError(f"{self.where} sets {name} = {value!r}; it must hold texts")
        return tuple(texts)

    def nested(self, name: str) -> "Keys | None":
        """An object inside, to be finished like this one; None where there is none."""
        self._known.add(name)
        value = self._values.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise ConfigError(f"{self.where} sets {name} = {value!r}; it must be an object")
        return Keys(value, f"{self.where}: {name}")

    def fixed(self, name: str, *accepted: object) -> None:
        """A key that may be missing or hold one of ``accepted``: anything else would be another network."""
        self._known.add(name)
        # Compared with their types, since 0 == False and 1 == 1.0.
        if name in self._values and (type(self._values[name]), self._values[name]) not in [
            (type(each), each) for each in accepted
        ]:
            only = " or ".join(repr(each) for each in accepted)
            raise ConfigError(f"{self.where} sets {name} = {self._values[name]!r}; only {only} is supported")

    def inert(self, *names: str) -> None:
        """Keys that change nothing here, whatever they hold."""
        self._known.update(names)

    def finish(self) -> None:
        """Raises ConfigError naming the keys that nobody asked for."""
        unknown = sorted(set(self._values) - self._known)
        if unknown:
            raise ConfigError(f"{self.where} has keys that are not known here: {', '.join(unknown)}")

    def _get(self, name: str, default: object) -> object:
        self._known.add(name)
        value = self._values.get(name)
        value = default if value is None else value
        if value is None:
            raise ConfigError(f"{self.where} lacks {name}")
        return value
