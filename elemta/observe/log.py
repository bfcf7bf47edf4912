"""The log: structured events on standard error, one for each thing that happened.

What is not here: which events there are; each room says its own.
Hostile octets never reach a terminal or a log line raw: control characters are escaped, long values cut.
"""

import io
import sys
import time
from typing import Any, TextIO

import orjson
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

#: Characters of one logged value: longer ones are an attack or a mistake, and are cut.
MAX_VALUE_CHARACTERS = 512

#: Characters of one logged traceback: some two hundred lines.
MAX_TRACEBACK_CHARACTERS = 16_384

#: The C0 and C1 controls, DEL, line and paragraph separators, and the bidirectional controls, which forge lines
#: on a terminal as well.
_UNSAFE = {
    code: f"\\u{code:04x}"
    for code in (
        *range(0x20),
        *range(0x7F, 0xA0),
        *range(0x200B, 0x2010),
        *range(0x2028, 0x202F),
        *range(0x2066, 0x206A),
        *range(0xD800, 0xE000),
        0xFEFF,
    )
}

#: Line breaks are the form of a traceback; JSON escapes them.
_UNSAFE_IN_TRACEBACK = {code: text for code, text in _UNSAFE.items() if code != 0x0A}


def printable(value: str) -> str:
    """The value with every unsafe character escaped, cut at `MAX_VALUE_CHARACTERS`."""
    if len(value) > MAX_VALUE_CHARACTERS:
        value = f"{value[:MAX_VALUE_CHARACTERS]}… ({len(value)} characters)"
    if value.isascii() and value.isprintable():
        return value
    return value.translate(_UNSAFE)


def escape_values(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """structlog processor: makes every text of an event printable."""
    for key, value in event.items():
        if type(value) is str and not (value.isascii() and value.isprintable() and len(value) < MAX_VALUE_CHARACTERS):
            event[key] = printable(value)
    return event


class JsonLines:
    """structlog processor: an event as one line of JSON, in one step, since a mail has two or three of them.

    `timestamp` (UTC, RFC 3339) and `level` are put in front. `exc_info` becomes `exception`: printable but for its line
    breaks (JSON escapes those), its end kept, which says most.
    """

    def __init__(self) -> None:
        self._second = -1
        self._date = ""

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> bytes:
        """The line, without its line break."""
        escape_values(logger, method, event)
        level = "error" if method == "exception" else method
        event = {"timestamp": self._now(), "level": level, "event": event.get("event", ""), **event}
        if "exc_info" in event:
            event = structlog.processors.format_exc_info(logger, method, event)
            trace = event.get("exception")
            if isinstance(trace, str):
                event["exception"] = trace[-MAX_TRACEBACK_CHARACTERS:].translate(_UNSAFE_IN_TRACEBACK)
        return orjson.dumps(event, default=repr)

    def _now(self) -> str:
        now = time.time()
        second = int(now)
        if second != self._second:
            self._second = second
            self._date = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._date}.{int((now - second) * 1e6):06}Z"


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except (ValueError, io.UnsupportedOperation):
        return False


def make_logger(level: str, form: str, stream: TextIO | None = None) -> FilteringBoundLogger:
    """A logger that writes to `stream` (standard error when None).

    `level` is debug, info, warning or error; `form` is console, json, or auto: console on a terminal, else json.
    """
    target = sys.stderr if stream is None else stream
    wrapper = structlog.make_filtering_bound_logger(level)
    if form == "console" or (form == "auto" and _is_terminal(target)):
        processors = [
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            escape_values,
            structlog.dev.ConsoleRenderer(colors=_is_terminal(target)),
        ]
        return _wrap(structlog.PrintLogger(target), processors, wrapper)
    return _wrap(structlog.BytesLogger(target.buffer), [JsonLines()], wrapper)


def _wrap(sink: Any, processors: list[Any], wrapper: type[Any]) -> FilteringBoundLogger:
    logger: FilteringBoundLogger = structlog.wrap_logger(
        sink, processors=processors, wrapper_class=wrapper, cache_logger_on_first_use=True
    ).bind()
    return logger
