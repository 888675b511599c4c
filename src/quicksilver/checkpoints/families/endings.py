"""Which token ends a text, where a family's configuration or its tokenizer files say so."""

from quicksilver.checkpoints.keys import Keys
from quicksilver.checkpoints.token_names import TokenNames
from quicksilver.errors import ConfigError


def first_eos(keys: Keys, tokens: TokenNames) -> int:
    """The tokenizer's end of text, or the first of the configuration's; raises ConfigError if neither names one.

    The tokenizer goes first: configurations of chat models that were made from base models often keep the base's.
    """
    ids, named = keys.integers("eos_token_id"), tokens.role("eos")
    if named is not None:
        return named
    if not ids:
        raise ConfigError("config.json lacks eos_token_id, and no tokenizer file names the token that ends a text")
    return ids[0]
