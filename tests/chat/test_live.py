"""A running reply: any number of followers, each sees every piece once and the end last."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from chat_app.chat.live import Live, Piece, Status, cut


def test_followers_join_and_leave_at_any_time() -> None:
    async def story() -> None:
        live: Live[str] = Live("rep_1", 1, "con_1")

        async def follow(after: int, leave_at: int | None = None) -> list[object]:
            seen: list[object] = []
            async for item in live.follow(after):
                seen.append(item)
                if leave_at is not None and len(seen) == leave_at:
                    break
            return seen

        early = [asyncio.create_task(follow(0)) for _ in range(3)]
        leaver = asyncio.create_task(follow(0, leave_at=2))
        await asyncio.sleep(0)
        live.say("Waiting…")
        await asyncio.sleep(0.01)
        for number in range(10):
            live.add(f"{number} ", 1)
            if number % 3 == 0:
                await asyncio.sleep(0)
        late = asyncio.create_task(follow(4))
        await asyncio.sleep(0.01)
        live.finish("end")
        await asyncio.sleep(0.01)
        pieces = [Piece(number + 1, f"{number} ", 1) for number in range(10)]
        for task in early:
            assert [item for item in await task if isinstance(item, Piece)] == pieces
            assert (await task)[0] == Status("Waiting…")
            assert (await task)[-1] == "end"
        assert await late == [*pieces[4:], "end"]
        assert len(await leaver) == 2
        assert await follow(10) == ["end"]
        assert live.text == "0 1 2 3 4 5 6 7 8 9 "

    asyncio.run(story())


@given(st.lists(st.text(min_size=1, max_size=5), max_size=20), st.integers(0, 25), st.text())
def test_a_stored_answer_is_cut_as_it_was_delivered(
    texts: list[str], after: int, rest: str
) -> None:
    live: Live[str] = Live("rep_1", 1, "con_1")
    for text in texts:
        live.add(text, 1)
    found = cut(live.text + rest, live.piece_lengths)
    assert [piece.text for piece in found] == texts + ([rest] if rest else [])
    assert [piece.index for piece in found] == list(range(1, len(found) + 1))
    assert cut(live.text + rest, live.piece_lengths, after=after) == found[after:]
