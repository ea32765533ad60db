"""Prometheus' text format: names, help, types and samples. It knows no figure's meaning."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Literal

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_NAME = re.compile(r"[^a-zA-Z0-9_]")


@dataclass
class Metric:
    """One metric with its samples. The unit is last in the name; a counter ends in `_total`."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    help: str
    samples: list[tuple[dict[str, str], float]] = field(default_factory=list)
    # Ends of names: `_bucket`, `_sum` and `_count` of a histogram, one for each sample.
    ends: list[str] = field(default_factory=list)

    def fill(
        self, bounds: Sequence[float], buckets: Sequence[int], total: float, **labels: str
    ) -> "Metric":
        """Add a histogram: how many fell up to each bound and beyond the last, and their sum."""
        below = 0
        for bound, count in zip([*bounds, math.inf], buckets, strict=True):
            below += count
            self.samples.append(({**labels, "le": _number(bound)}, below))
            self.ends.append("_bucket")
        self.samples += [(labels, total), (labels, below)]
        self.ends += ["_sum", "_count"]
        return self

    def add(self, value: float, **labels: str) -> "Metric":
        """Add a sample; returns the metric."""
        self.samples.append((labels, value))
        return self


def text(metrics: Iterable[Metric]) -> str:
    """The page for a scraper. Metrics without samples are left out."""
    lines = []
    for metric in metrics:
        if metric.samples:
            lines += [
                f"# HELP {metric.name} {_escaped(metric.help, quotes=False)}",
                f"# TYPE {metric.name} {metric.kind}",
                *(
                    f"{metric.name}{end}{_labels(labels)} {_number(v)}"
                    for end, (labels, v) in zip(_ends(metric), metric.samples, strict=False)
                ),
            ]
    return "".join(f"{line}\n" for line in lines)


def name(words: str) -> str:
    """The words as a metric's name."""
    return _NAME.sub("_", words)


def _ends(metric: Metric) -> Iterable[str]:
    return metric.ends or repeat("")


def _labels(labels: Mapping[str, str]) -> str:
    inner = ",".join(f'{name(key)}="{_escaped(value)}"' for key, value in labels.items())
    return f"{{{inner}}}" if inner else ""


def _escaped(words: str, *, quotes: bool = True) -> str:
    words = words.replace("\\", r"\\").replace("\n", r"\n")
    return words.replace('"', r"\"") if quotes else words


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if float(value).is_integer() else repr(float(value))
