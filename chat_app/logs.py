"""Logs: one line for each event, as JSON for programs or in colour for a terminal.

Each line carries what is bound around it: the request's id, who asks (a pseudonym), a job. The
program logs nothing that a person wrote; what looks like a secret is struck out all the same.
"""

import logging
import os
import re
import secrets
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

STRUCK = "[struck out]"
LONGEST = 20_000
OWN = ("chat_app", "ui", "launch")
QUIET = ("httpx", "httpcore", "alembic", "uvicorn.access", "asyncio", "multipart", "PIL")
_NAMES = re.compile(
    r"(?i)^(.*pass(word|phrase).*|.*secret.*|.*token|.*cookies?|authorization|.*api_?key"
    r"|pepper|prompt|content|texts?|body|headers|query(_string)?|totp|otp|email)$"
)
_SHAPES = [
    (re.compile(pattern), with_what)
    for pattern, with_what in (
        (r"eyJ[\w-]{8,999}\.[\w-]{8,}\.[\w-]*", STRUCK),  # access tokens
        (r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}", rf"\1 {STRUCK}"),
        (r"(?i)(chat_session)=[^\s;,\"']+", rf"\1={STRUCK}"),
        (r"\b(?:sk|rk|whsec|mcb)[-_][\w+/=-]{12,}", STRUCK),  # keys by their prefix
        (r"\$2[abxy]\$\d\d\$[./\w]{53}", STRUCK),  # password forms
        (r"(?<![\w-])[\w-]{43}(?![\w-])", STRUCK),  # 256 random bits as text
        (r"\[parameters: [^\n]*", f"[parameters: {STRUCK}"),  # of a failed database statement
        (
            r"(?i)\b(password|passwd|secret|token|api_?key|pepper)([\"']?\s*[=:]\s*[\"']?)[^\s,;\"']+",
            rf"\1\2{STRUCK}",
        ),
        (r"://[^\s/@]{1,300}@", f"://{STRUCK}@"),  # name and password in an address
        (r"((?:https?://|/)[^\s?\"'<>]{0,300})\?[^\s\"'<>]+", rf"\1?{STRUCK}"),  # query strings
    )
]
# Whatever could begin a new line or steer a terminal.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
Event = MutableMapping[str, Any]


def configure(
    *, format: str = "auto", level: str = "info", file: str = "", max_mib: int = 50, keep: int = 5
) -> None:
    """Send all logs to the standard error output, and to `file` (always JSON) if there is one.

    `format` is `json`, `console` or `auto`: the console's on a terminal. The file is begun anew
    at `max_mib`, and `keep` older ones stay. Can be called again.
    """
    if format == "auto":
        format = "console" if sys.stderr.isatty() else "json"
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    handlers[0].setFormatter(formatter(format, colours=sys.stderr.isatty()))
    if file:
        Path(file).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handlers.append(_OwnersFile(file, maxBytes=max_mib * 2**20, backupCount=keep))
        handlers[1].setFormatter(formatter("json"))
    logging.basicConfig(level=logging.INFO, handlers=handlers, force=True)
    for name in OWN:
        logging.getLogger(name).setLevel(level.upper())
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    if level in {"warning", "error"}:
        logging.getLogger().setLevel(level.upper())


def formatter(format: str, *, colours: bool = False) -> logging.Formatter:
    """How lines are written: `json` or `console`."""
    import structlog
    from structlog.stdlib import ExtraAdder, ProcessorFormatter

    console = format == "console"
    last: list[Any] = [ProcessorFormatter.remove_processors_meta, strike]
    if console:
        last += [
            one_line,
            structlog.dev.ConsoleRenderer(
                colors=colours, exception_formatter=structlog.dev.plain_traceback
            ),
        ]
    else:
        last.append(structlog.processors.JSONRenderer(default=str))
    return ProcessorFormatter(
        foreign_pre_chain=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.add_log_level,
            ExtraAdder(),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
        ],
        # Before anything is struck out, so that a traceback is text like any other.
        processors=[structlog.processors.format_exc_info, *last],
    )


def bind(**what: object) -> None:
    """Let the lines of this task, and of those that it starts, carry this from now on."""
    import structlog.contextvars

    structlog.contextvars.bind_contextvars(**what)


@contextmanager
def bound(**what: object) -> Iterator[None]:
    """`bind` for the lines within the block, which begins with nothing else bound."""
    import structlog.contextvars

    before = structlog.contextvars.get_contextvars()
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(**what)
    try:
        yield
    finally:
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(**before)


def request_id() -> str:
    """The id of the request that is being served; a fresh one outside of any."""
    import structlog.contextvars

    return str(structlog.contextvars.get_contextvars().get("request_id") or new_id())


def new_id() -> str:
    """An id for a request or a job's run."""
    return secrets.token_hex(8)


def strike(_logger: object, _method: str, event: Event) -> Event:
    """Strike secrets out, by the name of the field and by the shape of the text."""
    event.pop("color_message", None)  # the same sentence again, by uvicorn
    for name, value in event.items():
        event[name] = STRUCK if _NAMES.match(name) else _clean(value)
    return event


def one_line(_logger: object, _method: str, event: Event) -> Event:
    """Make what begins a line, or steers the terminal, visible; tracebacks stay indented."""
    for name, value in event.items():
        if name == "exception":
            lines = str(value).splitlines()
            event[name] = "\n".join("    " + _CONTROL.sub(_seen, line) for line in lines)
        elif isinstance(value, str):
            event[name] = _CONTROL.sub(_seen, value)
    return event


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        if len(value) > LONGEST:
            value = f"{value[:LONGEST]}… ({len(value)} characters)"
        for shape, with_what in _SHAPES:
            value = shape.sub(with_what, value)
        return value
    if isinstance(value, dict):
        return {
            name: STRUCK if _NAMES.match(str(name)) else _clean(item)
            for name, item in value.items()
        }
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_clean(item) for item in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return _clean(str(value))


def _seen(mark: re.Match[str]) -> str:
    return mark[0].encode("unicode_escape").decode("ascii")


class _OwnersFile(RotatingFileHandler):
    """A log that only the owner can read."""

    def _open(self) -> TextIOWrapper:
        def opener(path: str, flags: int) -> int:
            return os.open(path, flags, 0o600)

        # The handler closes it.
        opened = open(self.baseFilename, self.mode, encoding="utf-8", opener=opener)  # noqa: SIM115
        assert isinstance(opened, TextIOWrapper)
        return opened
