"""The formats of JSON Schema that are kept, as sets of strings.

Most are exact. A few have members that nobody writes and that cost thousands of states (leap seconds, host names of 253
characters, quoted mailboxes): those write the ``surely`` set, and what a negation takes away is the ``perhaps`` set, so
that neither direction ever allows too much.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from quicksilver.constraints.expression import (
    ANY_CHARACTER,
    Expression,
    Intersection,
    Repeat,
    alternatives,
    sequence,
)
from quicksilver.constraints.regex import regex_expression


@dataclass(frozen=True, eq=False)
class Format:
    """What strings of a format are."""

    surely: Expression
    """All of these are; none else is written."""
    perhaps: Expression
    """No others are; the same set where the format is exact."""


def _regex(pattern: str) -> Expression:
    return regex_expression(f"(?a){pattern}")


def _exact(pattern: str) -> Format:
    expression = _regex(pattern)
    return Format(expression, expression)


def _at_most(length: int, pattern: str) -> Expression:
    return Intersection((_regex(pattern), Repeat(ANY_CHARACTER, 0, length)))


# RFC 3339, section 5.6, with the days that months have; a year is a leap year by its four digits.
_LEAP = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)"
_DATE = (
    "(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))"
    f"|{_LEAP}-02-29)"
)
_OFFSET = "(?:[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
_CLOCK = "(?:[01][0-9]|2[0-3]):[0-5][0-9]:"
_TIME = rf"{_CLOCK}[0-5][0-9](?:\.[0-9]+)?{_OFFSET}"
# Leap seconds are right only where the offset makes them 23:59:60 UTC.
_LEAP_TIME = rf"{_CLOCK}(?:[0-5][0-9]|60)(?:\.[0-9]+)?{_OFFSET}"

# RFC 3339, appendix A.
_DAY_TIME = "T(?:[0-9]+H(?:[0-9]+M(?:[0-9]+S)?)?|[0-9]+M(?:[0-9]+S)?|[0-9]+S)"
_DAYS = "(?:[0-9]+D|[0-9]+M(?:[0-9]+D)?|[0-9]+Y(?:[0-9]+M(?:[0-9]+D)?)?)"
_DURATION = f"P(?:{_DAYS}(?:{_DAY_TIME})?|{_DAY_TIME}|[0-9]+W)"

_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = rf"{_OCTET}(?:\.{_OCTET}){{3}}"
_H16 = "[0-9A-Fa-f]{1,4}"
_LS32 = f"(?:{_H16}:{_H16}|{_IPV4})"
# RFC 3986, section 3.2.2.
_IPV6 = (
    f"(?:(?:{_H16}:){{6}}{_LS32}|::(?:{_H16}:){{5}}{_LS32}|(?:{_H16})?::(?:{_H16}:){{4}}{_LS32}"
    f"|(?:(?:{_H16}:)?{_H16})?::(?:{_H16}:){{3}}{_LS32}|(?:(?:{_H16}:){{0,2}}{_H16})?::(?:{_H16}:){{2}}{_LS32}"
    f"|(?:(?:{_H16}:){{0,3}}{_H16})?::{_H16}:{_LS32}|(?:(?:{_H16}:){{0,4}}{_H16})?::{_LS32}"
    f"|(?:(?:{_H16}:){{0,5}}{_H16})?::{_H16}|(?:(?:{_H16}:){{0,6}}{_H16})?::)"
)

# RFC 1123. Names that begin as internationalised ones do (xn--) must be valid in themselves: not kept.
_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_NO_PREFIX = r"(?!(?:.*\.)?[A-Za-z0-9-]{2}--)"
_LETTERS = "[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_HOST = rf"{_NO_PREFIX}{_LETTERS}(?:\.{_LETTERS})*"
_SHORT_HOST = 63

# RFC 5321, section 4.1.2.
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_SHORT_MAILBOX = _at_most(64, rf"{_ATOM}(?:\.{_ATOM})*")
_ANY_MAILBOX = r'(?:[^\s@"]+|"(?:[^"\\]|\\.)*")'

# RFC 3986, appendix A.
_UNRESERVED = r"A-Za-z0-9._~\-"
_SUB_DELIMS = "!$&'()*+,;="
_ENCODED = "%[0-9A-Fa-f]{2}"


def _uri_parts(letters: str, private: str) -> tuple[str, str]:
    """An absolute URI or IRI, and a relative reference, both with an optional fragment; ``letters`` go into classes."""
    segment_char = f"(?:[{letters}{_SUB_DELIMS}:@]|{_ENCODED})"
    segment, filled = f"{segment_char}*", f"{segment_char}+"
    no_colon = f"(?:[{letters}{_SUB_DELIMS}@]|{_ENCODED})+"
    future = rf"[vV][0-9A-Fa-f]+\.[{_UNRESERVED}{_SUB_DELIMS}:]+"
    host = rf"(?:\[(?:{_IPV6}|{future})\]|(?:[{letters}{_SUB_DELIMS}]|{_ENCODED})*)"
    authority = f"(?:(?:[{letters}{_SUB_DELIMS}:]|{_ENCODED})*@)?{host}(?::[0-9]*)?"
    after_authority = f"(?:/{segment})*"
    absolute = f"/(?:{filled}(?:/{segment})*)?"
    hier = f"(?://{authority}{after_authority}|{absolute}|{filled}(?:/{segment})*|)"
    relative = f"(?://{authority}{after_authority}|{absolute}|{no_colon}(?:/{segment})*|)"
    query = rf"(?:\?(?:{segment_char}|[/?{private}])*)?(?:#(?:{segment_char}|[/?])*)?"
    return f"[A-Za-z][A-Za-z0-9+.-]*:{hier}{query}", f"{relative}{query}"


# RFC 3987, section 2.2.
_UCS = (
    "\u00a0-\ud7ff\uf900-\ufdcf\ufdf0-\uffef"
    + "".join(f"{chr(plane << 16)}-{chr((plane << 16) + 0xFFFD)}" for plane in range(1, 14))
    + f"{chr(0xE1000)}-{chr(0xEFFFD)}"
)
_PRIVATE = f"\ue000-\uf8ff{chr(0xF0000)}-{chr(0xFFFFD)}{chr(0x100000)}-{chr(0x10FFFD)}"
_URI, _RELATIVE = _uri_parts(_UNRESERVED, "")
_IRI, _IRI_RELATIVE = _uri_parts(_UNRESERVED + _UCS, _PRIVATE)

# RFC 6570.
_VARCHAR = f"(?:[A-Za-z0-9_]|{_ENCODED})"
_VARSPEC = rf"{_VARCHAR}(?:\.?{_VARCHAR})*(?:\*|:[1-9][0-9]{{0,3}})?"
_TEMPLATE = (
    "(?:[!#$&(-;=?-\\[\\]_a-z~" + _UCS + _PRIVATE + f"]|{_ENCODED}"
    rf"|\{{[+#./;?&=,!@|]?{_VARSPEC}(?:,{_VARSPEC})*\}})*"
)

# RFC 6901.
_POINTER = "(?:/(?:[^~/]|~[01])*)*"


def _email() -> Format:
    at_host = sequence("@", _at_most(_SHORT_HOST, _HOST))
    literal = _regex(rf"@\[(?:{_IPV4}|IPv6:{_IPV6}|[A-Za-z0-9-]*:[!-Z^-~]*)\]")
    anything = sequence(_regex(_ANY_MAILBOX), alternatives(_regex(rf"@{_LETTERS}(?:\.{_LETTERS})*"), literal))
    return Format(sequence(_SHORT_MAILBOX, at_host), anything)


_MAKERS: dict[str, Callable[[], Format]] = {
    "date": lambda: _exact(_DATE),
    "time": lambda: Format(_regex(_TIME), _regex(_LEAP_TIME)),
    "date-time": lambda: Format(_regex(f"{_DATE}[Tt]{_TIME}"), _regex(f"{_DATE}[Tt]{_LEAP_TIME}")),
    "duration": lambda: _exact(_DURATION),
    "uuid": lambda: _exact("[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"),
    "ipv4": lambda: _exact(_IPV4),
    "ipv6": lambda: _exact(_IPV6),
    "hostname": lambda: Format(_at_most(_SHORT_HOST, _HOST), _regex(rf"{_LETTERS}(?:\.{_LETTERS})*")),
    "email": _email,
    "uri": lambda: _exact(_URI),
    "uri-reference": lambda: _exact(f"(?:{_URI}|{_RELATIVE})"),
    "iri": lambda: _exact(_IRI),
    "iri-reference": lambda: _exact(f"(?:{_IRI}|{_IRI_RELATIVE})"),
    "uri-template": lambda: _exact(_TEMPLATE),
    "json-pointer": lambda: _exact(_POINTER),
    "relative-json-pointer": lambda: _exact(f"(?:0|[1-9][0-9]*)(?:#|{_POINTER})"),
}

FORMATS = frozenset(_MAKERS)
"""Missing: ``regex`` (not regular), ``idn-hostname`` and ``idn-email`` (tables of IDNA)."""


@cache
def format_of(name: str) -> Format:
    """One of ``FORMATS``."""
    return _MAKERS[name]()
