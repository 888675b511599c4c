"""Numbers as texts.

Every number has one text: without exponent, without a plus, without zeros that could be left out, zero without a
sign. So languages of texts are sets of numbers, and bounds, multiples and their combinations are automata over digits.
"""

from decimal import Decimal
from fractions import Fraction

from quicksilver.constraints.expression import (
    Alternatives,
    Difference,
    Expression,
    Intersection,
    Literal,
    Repeat,
    Rule,
    alternatives,
    characters,
    optional,
    sequence,
)
from quicksilver.constraints.json_schema.atoms import AtLeast, AtMost, Atom, IsInteger, MultipleOf, NumberIs
from quicksilver.errors import ConfigError, UnsupportedConstraintError

_DIGIT = characters(("0", "9"))
_NONZERO = characters(("1", "9"))
_DIGITS = Repeat(_DIGIT)
_WHOLE = sequence(_NONZERO, _DIGITS)
_FRACTION = sequence(".", _DIGITS, _NONZERO)
_MAGNITUDE = sequence(alternatives("0", _WHOLE), optional(_FRACTION))
_POSITIVE = alternatives(sequence(_WHOLE, optional(_FRACTION)), sequence("0", _FRACTION))
NUMBER = alternatives("0", sequence(optional("-"), _POSITIVE))
INTEGER = alternatives("0", sequence(optional("-"), _WHOLE))

MAX_REMAINDERS = 10_000
"""States of an automaton that divides."""
_MAX_DIGITS = 400
"""Of a number in a schema: the largest finite float has 309."""


def exact(number: int | float | Decimal) -> Fraction:
    """The number that a schema's JSON means, not its nearest float.

    Raises:
        ConfigError: it is not finite, or written with more digits than any float has.
    """
    value = number if isinstance(number, int) else Decimal(repr(number) if isinstance(number, float) else number)
    if isinstance(value, Decimal) and not value.is_finite():
        raise ConfigError(f"{number} is no number of JSON")
    size = abs(value.adjusted()) if isinstance(value, Decimal) else value.bit_length() // 4
    if size > _MAX_DIGITS:
        raise UnsupportedConstraintError(f"the number {number} has more than {_MAX_DIGITS} digits")
    return Fraction(value)


def number_text(value: Fraction) -> str:
    """The one text of a number whose decimals end."""
    sign = "-" if value < 0 else ""
    whole, decimals = _digits(abs(value))
    return f"{sign}{whole}{'.' + decimals if decimals else ''}"


def number_language(atom: Atom) -> Expression:
    """The numbers of which an atom is true.

    Raises:
        UnsupportedConstraintError: a divisor has too many digits.
    """
    match atom:
        case NumberIs(value):
            return Literal(number_text(value))
        case IsInteger():
            return INTEGER
        case AtLeast(bound, is_open):
            numbers = _at_least(bound, alternatives("0", _POSITIVE), sequence("-", _POSITIVE), "", "-")
            return Difference(numbers, Literal(number_text(bound))) if is_open else numbers
        case AtMost(bound, is_open):
            numbers = _at_least(-bound, alternatives("0", sequence("-", _POSITIVE)), _POSITIVE, "-", "")
            return Difference(numbers, Literal(number_text(bound))) if is_open else numbers
        case MultipleOf(divisor):
            return Intersection((NUMBER, sequence(optional("-"), _multiples(divisor))))
        case _:
            raise TypeError(f"{atom} is not of numbers")


def number_satisfies(atom: Atom, value: Fraction) -> bool:
    match atom:
        case NumberIs(wanted):
            return value == wanted
        case IsInteger():
            return value.denominator == 1
        case AtLeast(bound, is_open):
            return value > bound or (value == bound and not is_open)
        case AtMost(bound, is_open):
            return value < bound or (value == bound and not is_open)
        case MultipleOf(divisor):
            return (value / divisor).denominator == 1
        case _:
            raise TypeError(f"{atom} is not of numbers")


def _at_least(bound: Fraction, upper: Expression, lower: Expression, sign: str, other_sign: str) -> Expression:
    """Numbers from a bound on upwards; mirrored: ``upper`` are zero and the numbers to which the bound's sign leads."""
    if bound > 0:
        return Difference(upper, sequence(alternatives(sign, ""), _below(bound, or_equal=False)))
    below_zero = sequence(other_sign, _below(-bound, or_equal=True))
    return Alternatives((upper, Intersection((lower, below_zero))))


def _below(bound: Fraction, *, or_equal: bool) -> Expression:
    """Magnitudes less than a bound that is not negative."""
    whole, decimals = _digits(bound)
    options: list[Expression] = [
        sequence(whole[:place], _below_digit(digit), Repeat(_DIGIT, left, left), optional(_FRACTION))
        for place, (digit, left) in enumerate(zip(whole, range(len(whole) - 1, -1, -1), strict=True))
        if digit > "0"
    ]
    if len(whole) > 1:
        options.append(sequence(Repeat(_DIGIT, 1, len(whole) - 1), optional(_FRACTION)))
    options.extend(
        sequence(whole, ".", decimals[:place], _below_digit(digit), _DIGITS)
        for place, digit in enumerate(decimals)
        if digit > "0"
    )
    # A number that breaks off where the bound goes on is less.
    options.extend(sequence(whole, ".", decimals[:place]) for place in range(1, len(decimals)))
    if decimals:
        options.append(Literal(whole))
    if or_equal:
        options.append(Literal(f"{whole}.{decimals}" if decimals else whole))
    return Intersection((_MAGNITUDE, Alternatives(tuple(options))))


def _below_digit(digit: str) -> Expression:
    return characters(("0", chr(ord(digit) - 1)))


def _multiples(divisor: Fraction) -> Expression:
    """Magnitudes that a divisor divides, and other texts that are no magnitudes."""
    decimals = len(_digits(divisor)[1])
    modulus = int(divisor * 10**decimals)
    count = modulus * (decimals + 1)
    if count > MAX_REMAINDERS:
        raise UnsupportedConstraintError(
            f"multipleOf {number_text(divisor)} takes {count} states, at most {MAX_REMAINDERS} are kept"
        )
    # What was read so far, as an integer, leaves a remainder; `read` of its digits stood behind the point.
    states = {
        (remainder, read): Rule(f"{remainder} modulo {modulus}, {read} decimals", is_level=False)
        for remainder in range(modulus)
        for read in range(decimals + 1)
    }
    for (remainder, read), rule in states.items():
        options: list[Expression] = []
        if remainder * 10 ** (decimals - read) % modulus == 0:
            options.append(Literal(""))
        if read == 0:
            options.extend(_by_digit(states, remainder, 0, modulus))
        if read == 0 and decimals:
            options.append(sequence(".", Alternatives(tuple(_by_digit(states, remainder, 1, modulus)))))
        elif 0 < read < decimals:
            options.extend(_by_digit(states, remainder, read + 1, modulus))
        rule.body = Alternatives(tuple(options))
    return states[0, 0]


def _by_digit(states: dict[tuple[int, int], Rule], remainder: int, read: int, modulus: int) -> list[Expression]:
    return [sequence(str(digit), states[(remainder * 10 + digit) % modulus, read]) for digit in range(10)]


def _digits(value: Fraction) -> tuple[str, str]:
    """Digits in front of the point and behind it of a number that is not negative."""
    shift = 0
    while (value * 10**shift).denominator != 1:
        shift += 1
    digits = str(int(value * 10**shift)).rjust(shift + 1, "0")
    return digits[: len(digits) - shift], digits[len(digits) - shift :]
