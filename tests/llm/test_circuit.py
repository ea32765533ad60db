"""The breaker: who opens it, how long it stays so, and what closes it."""

from chat_app.llm.circuit import MAX_PAUSE_SECONDS, Circuit


def test_it_opens_after_failures_in_a_row_and_not_before() -> None:
    circuit = Circuit(3, 10.0)
    assert [circuit.bad(0.0), circuit.bad(0.0)] == [False, False]
    circuit.good()
    assert [circuit.bad(0.0) for _ in range(3)] == [False, False, True]
    assert circuit.state == "open"
    assert not circuit.bad(1.0), "it is open already"


def test_a_hang_opens_it_at_once() -> None:
    circuit = Circuit(3, 10.0)
    assert circuit.bad(0.0, at_once=True)
    assert circuit.state == "open"


def test_one_question_at_a_time_finds_out_and_closes_it() -> None:
    circuit = Circuit(1, 10.0)
    circuit.bad(100.0)
    assert not circuit.due(109.9)
    assert circuit.due(110.0)
    circuit.probe()
    assert circuit.state == "half_open"
    assert not circuit.due(111.0), "somebody asks already"
    circuit.probed(111.0, well=True)
    assert (circuit.state, circuit.failures) == ("closed", 0)
    assert not circuit.due(1000.0)


def test_the_pause_doubles_to_a_limit() -> None:
    circuit = Circuit(1, 10.0)
    circuit.bad(0.0)
    now, pauses = 0.0, []
    for _ in range(8):
        pauses.append(circuit.open_until - now)
        now = circuit.open_until
        circuit.probe()
        circuit.probed(now, well=False)
    assert pauses[:4] == [10.0, 20.0, 40.0, 80.0]
    assert max(pauses) == pauses[-1] == MAX_PAUSE_SECONDS


def test_an_answer_from_before_says_nothing_about_now() -> None:
    circuit = Circuit(1, 10.0)
    circuit.bad(0.0)
    circuit.good()
    assert circuit.state == "open"
