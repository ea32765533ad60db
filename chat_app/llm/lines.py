"""Log lines of a worker on their way through its output: one line for each event, as JSON.

What libraries print is text and stays so. The web process adds the model and passes both on to
its own log, so an answer's lines carry its id whichever process wrote them.
"""

import json
import logging

MARK = "\x02"
_FIELDS = ("reply",)


class _Line(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """The record as one marked line."""
        content = {"level": record.levelname, "event": record.getMessage()}
        if record.exc_info:
            content["exception"] = self.formatException(record.exc_info)
        content |= {name: vars(record)[name] for name in _FIELDS if name in vars(record)}
        return MARK + json.dumps(content, default=str)


def configure() -> None:
    """Let all loggers of this process write such lines."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Line())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def relay(log: logging.Logger, line: str, *, model: str) -> None:
    """Pass a line of a worker's output on to the log, with its level and fields."""
    # A library may have left its own line unfinished before the mark.
    before, mark, rest = line.partition(MARK)
    if before.strip():
        log.info("%s: %s", model, before.rstrip(), extra={"model": model})
    if not mark:
        return
    try:
        content = json.loads(rest)
        level = logging.getLevelNamesMapping()[content["level"]]
        event = str(content["event"])
    except (ValueError, KeyError, TypeError):
        log.info("%s: %s", model, rest.rstrip(), extra={"model": model})
        return
    extra = {name: str(content[name]) for name in _FIELDS if name in content}
    if "exception" in content:
        extra["exception"] = str(content["exception"])
    log.log(level, "%s", event, extra={"model": model, **extra})
