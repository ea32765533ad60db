"""All threads while the machine is free, fewer while somebody else wants its cores."""

import itertools
import os
import subprocess
import sys
import time

import pytest

from chat_app.llm.native.threads import Threads

STEP = 0.05


class Machine:
    """A clock and a processor: `free` of the cores that are asked for can be had."""

    def __init__(self, free: float) -> None:
        self.free = free
        self.now = self.busy = 0.0
        self.used: list[int] = []

    def threads(self, most: int, *, watched: bool = True) -> Threads:
        return Threads(
            most,
            self.used.append,
            watched=watched,
            clock=lambda: self.now,
            processor=lambda: self.busy,
        )

    def steps(self, threads: Threads, count: int, seconds: float = STEP) -> list[int]:
        """With how many threads each of so many steps was computed."""
        found = []
        for _ in range(count):
            with threads.step():
                found.append(threads.count)
                self.now += seconds
                self.busy += seconds * min(threads.count, self.free)
        return found


def test_a_free_machine_is_used_whole() -> None:
    machine = Machine(free=4)
    assert machine.steps(machine.threads(4), 200) == [4] * 200
    assert machine.used == [4]


def test_while_a_core_is_taken_fewer_threads_wait_in_vain() -> None:
    machine = Machine(free=1)
    found = machine.steps(machine.threads(2), 20)
    assert found[:3] == [2, 2, 2]
    assert found[3:] == [1] * 17
    machine = Machine(free=1)
    assert machine.steps(machine.threads(8), 12)[::3] == [8, 4, 2, 1]


def test_one_long_step_is_enough() -> None:
    """A piece of a prompt that took ten times as long as it should."""
    machine = Machine(free=1)
    assert machine.steps(machine.threads(2), 3, seconds=0.5) == [2, 1, 1]


def test_some_time_on_a_core_of_many_matters_to_nobody() -> None:
    machine = Machine(free=5.5)
    assert set(machine.steps(machine.threads(7), 100)) == {7}


def test_all_are_tried_again_less_and_less_often_while_it_lasts() -> None:
    machine = Machine(free=1)
    threads = machine.threads(2)
    found = machine.steps(threads, 4000)
    tries = [
        at for at, (one, next) in enumerate(itertools.pairwise(found)) if (one, next) == (1, 2)
    ]
    pauses = [(later - one) * STEP for one, later in itertools.pairwise(tries)]
    assert pauses[:2] == [pytest.approx(2, abs=0.3), pytest.approx(4, abs=0.4)]
    assert max(pauses) == pytest.approx(30, abs=0.5)
    assert found.count(2) < 40
    machine.free = 2
    assert machine.steps(threads, 700)[-1] == 2
    # Then it begins anew, with short pauses.
    machine.free = 1
    assert machine.steps(threads, 60).count(1) >= 20
    machine.free = 2
    assert machine.steps(threads, 40)[-1] == 2


def test_steps_too_short_to_tell_and_single_threads_say_nothing() -> None:
    machine = Machine(free=0)
    assert set(machine.steps(machine.threads(4), 50, seconds=0.0005)) == {4}
    assert set(machine.steps(machine.threads(1), 50)) == {1}
    assert set(machine.steps(machine.threads(4, watched=False), 50)) == {4}
    assert machine.used == [4, 1, 4]


def test_a_step_that_fails_is_judged_no_further() -> None:
    machine = Machine(free=1)
    threads = machine.threads(2)
    with pytest.raises(ValueError, match="broken"), threads.step():
        raise ValueError("broken")
    assert machine.steps(threads, 1) == [2]


def test_real_threads_beside_a_real_neighbour() -> None:
    """Twice as many processes that never rest as there are cores: a third of the time is left."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    cores = len(os.sched_getaffinity(0))
    threads = Threads(cores, torch.set_num_threads)
    if cores == 1:
        pytest.skip("one core has nothing to share")
    spin = [sys.executable, "-c", "while True: pass"]
    neighbours = [subprocess.Popen(spin) for _ in range(2 * cores)]
    try:
        x = torch.randn(700, 700)
        ends = time.monotonic() + 60
        while threads.count > 1 and time.monotonic() < ends:
            with threads.step():
                for _ in range(20):
                    x = torch.nn.functional.normalize(x @ x)
        assert threads.count < cores
    finally:
        for one in neighbours:
            one.kill()
            one.wait()
        torch.set_num_threads(before)
