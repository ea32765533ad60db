"""Telemetry: what this process measures of itself, joined for whoever reads it.

One object for each App. It measures nothing by itself: `flows/monitoring.py` looks every few
seconds and puts what it saw here.
"""

import socket
from dataclasses import dataclass, field

from chat_app.monitor.lag import Lag
from chat_app.monitor.probe import MachineProbe
from chat_app.monitor.requests import Traffic
from chat_app.monitor.rules import Judge
from chat_app.monitor.series import FILE, Keep, Recorder, Store
from chat_app.settings import Settings

MINUTES_A_DAY, QUARTERS_A_DAY = 1440, 96


@dataclass
class Telemetry:
    """`latest` are the newest figures, seen at `seen_at` (µs; 0: not yet)."""

    traffic: Traffic
    lag: Lag
    machine: MachineProbe
    recorder: Recorder
    judge: Judge
    latest: dict[str, float] = field(default_factory=dict)
    seen_at: int = 0

    @property
    def source(self) -> str:
        """The name of this process among several: its machine and port."""
        return self.recorder.source


def build(settings: Settings) -> Telemetry:
    """The parts for an installation. Opens no file yet."""
    kept = settings.monitor
    keep = Keep(
        minutes=kept.minutes_days * MINUTES_A_DAY,
        quarters=kept.quarters_days * QUARTERS_A_DAY,
        days=kept.days,
    )
    source = f"{socket.gethostname()[:100]}:{settings.server.port}"
    return Telemetry(
        traffic=Traffic(),
        lag=Lag(),
        machine=MachineProbe(settings.data_dir),
        recorder=Recorder(Store(settings.data_dir / FILE, keep), source),
        judge=Judge(source),
    )
