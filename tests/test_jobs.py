"""Jobs run when they are due, once across processes, and a failure stops nothing."""

from functools import partial

from chat_app.clock import ManualClock
from chat_app.db import Database
from chat_app.jobs import Job, Runner, states


def _fails() -> None:
    raise RuntimeError("no luck")


def test_due_jobs_run_once_and_failures_are_recorded(database: Database) -> None:
    clock = ManualClock()
    ran: list[str] = []
    jobs = [Job("works", 10, lambda: ran.append("works")), Job("fails", 10, _fails)]
    one, two = Runner(database, clock, jobs), Runner(database, clock, jobs)
    assert (one.run_due(), two.run_due()) == (2, 0)
    clock.advance(seconds=9)
    assert one.run_due() == 0
    clock.advance(seconds=1)
    assert (two.run_due(), one.run_due()) == (2, 0)
    assert ran == ["works", "works"]
    with database.read() as session:
        found = {state.name: state for state in states(session)}
    assert (found["works"].runs, found["works"].failures, found["works"].error) == (2, 0, None)
    assert (found["fails"].runs, found["fails"].failures) == (2, 2)
    assert found["fails"].error == "RuntimeError: no luck"


def test_what_tends_a_process_runs_in_each(database: Database) -> None:
    """Its own memory is nobody else's work, and it is due as often as any job."""
    clock = ManualClock()
    ran: list[str] = []
    one, two = (
        Runner(database, clock, [Job("tends", 10, partial(ran.append, name), everywhere=True)])
        for name in ("one", "two")
    )
    assert (one.run_due(), two.run_due(), one.run_due()) == (1, 1, 0)
    clock.advance(seconds=10)
    assert (two.run_due(), two.run_due(), one.run_due()) == (1, 0, 1)
    assert ran == ["one", "two", "two", "one"]
    clock.advance(days=-2)
    assert (one.run_due(), one.run_due()) == (1, 0)


def test_a_clock_set_back_stops_no_job(database: Database) -> None:
    clock = ManualClock()
    runner = Runner(database, clock, [Job("ticks", 10, lambda: None)])
    assert runner.run_due() == 1
    clock.advance(days=-2)
    assert runner.run_due() == 1
    assert runner.run_due() == 0


def test_two_runners_at_once_run_a_job_once(database: Database) -> None:
    import threading

    clock = ManualClock()
    ran: list[int] = []
    jobs = [Job(f"job {number}", 60, lambda: ran.append(1)) for number in range(5)]
    runners = [Runner(database, clock, jobs) for _ in range(6)]
    threads = [threading.Thread(target=runner.run_due) for runner in runners]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ran) == 5
