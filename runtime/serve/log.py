"""The server's log: a JSON object a line on stderr, without pictures or words of shoppers."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

_FRAMES = 6
_log = logging.getLogger("cir_rt.serve")


class JsonLines(logging.Formatter):
    """One JSON object a record: time, level, event, and the facts that came with it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        time = datetime.fromtimestamp(record.created, timezone.utc)
        line = {
            "time": time.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info and record.exc_info[1]:
            line |= described(record.exc_info[1])
        return json.dumps(line)


def to_stderr() -> None:
    """Write the log of the server, and the warnings of all that it uses, to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.captureWarnings(True)  # decoders warn of damaged pictures
    _log.setLevel(logging.INFO)


def say(event: str, **facts: Any) -> None:
    """Note an event."""
    _log.info(event, extra={"facts": facts})


def fault(error: BaseException, request: str) -> None:
    """Note that a request failed by no fault of its own."""
    _log.error("fault", extra={"facts": {"request": request, **described(error)}})


def described(error: BaseException) -> dict[str, Any]:
    """Return an error's type and where it came from; what it says may hold a shopper's words."""
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    where = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
    return {"error": type(error).__name__, "where": where}
