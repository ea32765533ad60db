"""Blocks: none held twice, none lost, names only for what is really in them."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from chat_app.llm.native.cache import BLOCK_TOKENS, TRASH, Cache, Table, blocks, chain, near_need

CHUNK = 24


class Traffic(RuleBasedStateMachine):
    """Answers open, grow and close over small pools; `content` is what a block really holds."""

    @initialize(window=st.sampled_from([0, 8, 40]), room=st.integers(8, 30))
    def begin(self, window: int, room: int) -> None:
        near = 3 * near_need(window, CHUNK) + 1
        self.cache = Cache(wide_blocks=room, near_blocks=near, window=window, chunk_tokens=CHUNK)
        self.window = window
        self.tables: list[tuple[Table, list[int], int]] = []
        self.wide: dict[int, dict[int, tuple[int, ...]]] = {}
        self.near: dict[int, dict[int, tuple[int, ...]]] = {}

    @rule(
        seed=st.integers(0, 2),
        length=st.integers(1, 90),
        more=st.integers(1, 30),
        scope=st.sampled_from(["a", "b"]),
    )
    def open(self, seed: int, length: int, more: int, scope: str) -> None:
        tokens = [(index * 7 + seed * (index > 40)) % 5 for index in range(length)]
        table = self.cache.open(tokens, length + more, scope)
        if table is None:
            assert self.tables or blocks(length + more) > self.cache.wide.blocks - 1
            return
        assert table.length < length
        assert table.length % BLOCK_TOKENS == 0
        self.check_content(table, tokens, scope)
        self.tables.append((table, tokens + [9] * more, len(self.tables)))

    def check_content(self, table: Table, tokens: list[int], scope: str) -> None:
        """What was found in the cache is this very text of this very scope."""
        for index in range(table.length // BLOCK_TOKENS):
            expected = (scope, *tokens[: (index + 1) * BLOCK_TOKENS])
            assert self.wide[table.wide[index]] == expected
        if self.window:
            first = max(0, table.length - self.window + 1) // BLOCK_TOKENS
            for index in range(first, table.length // BLOCK_TOKENS):
                expected = (scope, *tokens[: (index + 1) * BLOCK_TOKENS])
                assert self.near[table.near[index]] == expected
        table.scope = scope  # type: ignore[attr-defined]

    @precondition(lambda self: self.tables)
    @rule(which=st.integers(0, 50), count=st.integers(1, CHUNK))
    def grow(self, which: int, count: int) -> None:
        table, tokens, _ = self.tables[which % len(self.tables)]
        count = min(count, len(tokens) - table.length)
        if not count:
            return
        self.cache.extend(table, count)
        start = table.length
        for pool, content in (("wide", self.wide), ("near", self.near)):
            if pool == "near" and not self.window:
                continue
            held = getattr(table, pool)
            for index in range(start // BLOCK_TOKENS, blocks(start + count)):
                assert held[index] != TRASH
                others = [
                    other
                    for other, *_ in self.tables
                    if other is not table and held[index] in getattr(other, pool)
                ]
                assert not others, "a block that is written belongs to one answer"
                end = min((index + 1) * BLOCK_TOKENS, start + count)
                content[held[index]] = (table.scope, *tokens[:end])  # type: ignore[attr-defined]
        self.cache.advance(table, tokens[start : start + count])
        if self.window:
            seen = range(max(0, table.length - self.window + 1), table.length)
            assert all(table.near[at // BLOCK_TOKENS] != TRASH for at in seen)

    @precondition(lambda self: self.tables)
    @rule(which=st.integers(0, 50))
    def close(self, which: int) -> None:
        table, *_ = self.tables.pop(which % len(self.tables))
        self.cache.close(table)

    @invariant()
    def every_block_is_somewhere_once(self) -> None:
        if not hasattr(self, "cache"):
            return
        for pool, name in ((self.cache.wide, "wide"), (self.cache.near, "near")):
            held = {
                block
                for table, *_ in self.tables
                for block in getattr(table, name)
                if block != TRASH
            }
            assert pool.held == max(0, len(held)) or pool.blocks == 1
            assert pool.available >= 0

    def teardown(self) -> None:
        if hasattr(self, "cache"):
            for table, *_ in self.tables:
                self.cache.close(table)
            assert self.cache.wide.held == 0
            assert self.cache.near.held == 0


TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_names_depend_on_everything_before_and_on_the_scope() -> None:
    tokens = list(range(48))
    names = chain(b"a", tokens)
    assert len(names) == 3
    assert chain(b"a", tokens[:40]) == names[:2]
    assert chain(b"b", tokens)[0] != names[0]
    assert chain(b"a", [7, *tokens[1:]])[2] != names[2]
    assert chain(names[1], tokens[32:]) == names[2:]
