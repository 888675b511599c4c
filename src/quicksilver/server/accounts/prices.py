"""What tokens cost, in whole nano-dollars: a bill is a sum of integers, so it is exact."""

from dataclasses import dataclass
from decimal import Decimal

from quicksilver.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Prices:
    """Dollars per million tokens, with at most three decimals: then one token costs whole nano-dollars.

    Raises:
        ConfigError: a price is negative or has more decimals.
    """

    input: Decimal = Decimal(0)
    """Of input tokens that had to be read."""
    cached: Decimal = Decimal(0)
    """Of input tokens that the prefix cache held."""
    output: Decimal = Decimal(0)

    def __post_init__(self) -> None:
        for name in ("input", "cached", "output"):
            price: Decimal = getattr(self, name)
            if not (price.is_finite() and price >= 0 and price * 1000 == int(price * 1000)):
                raise ConfigError(f"the price of {name} tokens is {price}: give 0 or more with at most three decimals")

    def nanodollars(self, *, input_tokens: int, cached_tokens: int, output_tokens: int) -> int:
        """The cost of a request.

        Args:
            input_tokens: all that were given to read.
            cached_tokens: those of them that the prefix cache held.
            output_tokens: what was written.
        """
        # A dollar per million tokens is 1000 nano-dollars per token. Multiplied as integers, as decimals round.
        of_input, of_cached, of_output = (int(price * 1000) for price in (self.input, self.cached, self.output))
        return of_input * (input_tokens - cached_tokens) + of_cached * cached_tokens + of_output * output_tokens
