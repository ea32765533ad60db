"""Background jobs: due ones run, once across processes, and failures are recorded.

A job takes its turn by moving a row in `job` forward in one conditional update, so two
processes never run it at the same time. This room knows no domain: `schedule.py` lists the jobs.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import true
from sqlalchemy.exc import IntegrityError
from sqlmodel import Field, Session, SQLModel, col, select, update

from chat_app import logs
from chat_app.clock import MICROS_PER_SECOND, Clock
from chat_app.db import BigInt, Database

log = logging.getLogger(__name__)


class JobState(SQLModel, table=True):
    """When a job may run next, and how its last run went."""

    __tablename__ = "job"

    name: str = Field(primary_key=True)
    due_at: int = Field(default=0, sa_type=BigInt)
    started_at: int | None = Field(default=None, sa_type=BigInt)
    ended_at: int | None = Field(default=None, sa_type=BigInt)
    error: str | None = None
    runs: int = 0
    failures: int = 0


@dataclass(frozen=True)
class Job:
    """`run` is called every `every_seconds`, on a thread of its own runner.

    What tends the memory of a process is `everywhere`: each process runs it for itself.
    """

    name: str
    every_seconds: float
    run: Callable[[], object]
    everywhere: bool = False


class Runner:
    """Runs jobs until stopped. One thread; a slow job delays the others, never doubles."""

    def __init__(self, db: Database, clock: Clock, jobs: Sequence[Job]) -> None:
        self._db = db
        self._clock = clock
        self._jobs = jobs
        self._own: dict[str, int] = {}
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, with all due jobs at once."""
        self._thread = threading.Thread(target=self._loop, name="jobs", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End after the job in hand."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def run_due(self) -> int:
        """Run every job whose time has come; returns how many ran."""
        try:
            due = self._due()
        except Exception:
            log.exception("the jobs could not be read")
            return 0
        return sum(self._run_if_due(job) for job in due)

    def _due(self) -> list[Job]:
        """What may be claimed now, found by one read: most of the time that is nothing."""
        now = self._clock.micros()
        with self._db.read() as session:
            known = {row.name: row.due_at for row in session.exec(select(JobState))}
        for name in (job.name for job in self._jobs if job.everywhere):
            known[name] = self._own.get(name, 0)
        return [job for job in self._jobs if _open(known.get(job.name, 0), job, now)]

    def _loop(self) -> None:
        pause = min((job.every_seconds for job in self._jobs), default=60) / 4
        while not self._stopped.is_set():
            self.run_due()
            self._stopped.wait(min(pause, 5))

    def _run_if_due(self, job: Job) -> bool:
        with logs.bound(request_id=logs.new_id(), job=job.name):
            return self._try(job)

    def _try(self, job: Job) -> bool:
        try:
            if not self._db.write(lambda session: self._claim(session, job)):
                return False
        except Exception:
            log.exception("job %s could not be claimed", job.name)
            return False
        failure: str | None = None
        try:
            job.run()
        except Exception as error:
            log.exception("job %s failed", job.name)
            failure = f"{type(error).__name__}: {error}"[:500]
        try:
            self._db.write(lambda session: self._record(session, job, failure))
        except Exception:
            log.exception("the end of job %s could not be recorded", job.name)
        return True

    def _claim(self, session: Session, job: Job) -> bool:
        now = self._clock.micros()
        step = int(job.every_seconds * MICROS_PER_SECOND)
        if session.get(JobState, job.name) is None:
            try:
                with session.begin_nested():
                    session.add(JobState(name=job.name))
            except IntegrityError:
                log.debug("job %s was registered by another process", job.name)
        # As in `_open`, and decided here.
        claimed = session.execute(
            update(JobState)
            .where(
                col(JobState.name) == job.name,
                true()
                if job.everywhere
                else (col(JobState.due_at) <= now) | (col(JobState.due_at) > now + step),
            )
            .values(due_at=now + step, started_at=now, runs=JobState.runs + 1)
        )
        self._own[job.name] = now + step
        return bool(claimed.rowcount)  # type: ignore[attr-defined]

    def _record(self, session: Session, job: Job, failure: str | None) -> None:
        session.execute(
            update(JobState)
            .where(col(JobState.name) == job.name)
            .values(
                ended_at=self._clock.micros(),
                error=failure,
                failures=JobState.failures + (1 if failure else 0),
            )
        )


def states(session: Session) -> Sequence[JobState]:
    """How each job is doing, by name."""
    return session.exec(select(JobState).order_by(JobState.name)).all()


def _open(due_at: int, job: Job, now: int) -> bool:
    """Whether a job may run. A due time further away than one step was written before the clock
    was set back.
    """
    return due_at <= now or due_at > now + int(job.every_seconds * MICROS_PER_SECOND)
