"""Exact money."""

from decimal import Decimal

import pytest

from quicksilver.errors import ConfigError
from quicksilver.server.accounts import Prices


def test_a_price_a_million_tokens():
    prices = Prices(input=Decimal("0.25"), cached=Decimal("0.025"), output=Decimal("0.75"))
    assert prices.nanodollars(input_tokens=10**6, cached_tokens=0, output_tokens=0) == 250_000_000
    assert prices.nanodollars(input_tokens=10**6, cached_tokens=10**6, output_tokens=0) == 25_000_000
    assert prices.nanodollars(input_tokens=3, cached_tokens=1, output_tokens=1) == 2 * 250 + 25 + 750
    assert Prices().nanodollars(input_tokens=3, cached_tokens=1, output_tokens=1) == 0


def test_a_sum_of_bills_is_the_bill_of_the_sum_even_where_decimals_have_too_few_digits():
    prices = Prices(input=Decimal("0.001"), output=Decimal("999999999.999"))
    tokens = 123_456_789_012_345_678_901
    cost = prices.nanodollars(input_tokens=1, cached_tokens=0, output_tokens=tokens)
    assert cost == 1 + 999_999_999_999 * tokens


@pytest.mark.parametrize("price", ["-0.1", "0.0001", "NaN", "Infinity"])
def test_a_price_that_cannot_be_billed_exactly_is_an_error(price):
    with pytest.raises(ConfigError, match=f"the price of cached tokens is {price}"):
        Prices(cached=Decimal(price))
