"""Text in and out, byte for byte: no newline translation, UTF-8 only."""

import sys
from pathlib import Path

from quicksilver.errors import InputError, UsageError


def read_text(source: str | Path) -> str:
    """The text of a file, or of standard input if ``source`` is ``-``.

    Raises:
        InputError: the file cannot be read or is not UTF-8.
    """
    is_stdin = str(source) == "-"
    name = "standard input" if is_stdin else str(source)
    try:
        data = sys.stdin.buffer.read() if is_stdin else Path(source).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {name}: {error.strerror}") from error
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}") from error


def write_text(text: str, output: Path | None) -> None:
    """Write to a file, or to standard output if it is None.

    Raises:
        UsageError: the file cannot be written.
    """
    data = text.encode("utf-8")
    if output is None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    try:
        output.write_bytes(data)
    except OSError as error:
        raise UsageError(f"cannot write {output}: {error.strerror}") from error
