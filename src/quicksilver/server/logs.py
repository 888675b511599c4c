"""One line of JSON per request. Prompts and answers are in it only where the server was told so."""

import json
import logging
import sys
from datetime import UTC, datetime

_FIELDS = "quicksilver_fields"

log = logging.getLogger("quicksilver.server")


class JsonLines(logging.Formatter):
    """Records as JSON, one a line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, _FIELDS, {}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def start(level: str) -> None:
    """Write the server's log to stderr.

    Args:
        level: ``debug``, ``info``, ``warning`` or ``error``.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    log.handlers[:] = [handler]
    log.setLevel(level.upper())
    log.propagate = False


def request(fields: dict[str, object]) -> None:
    """Log a request that has ended."""
    log.info("request", extra={_FIELDS: fields})
