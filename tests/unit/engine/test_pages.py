"""Page accounts under random operations, with a model of the memory that says what every slot holds."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from quicksilver.engine.pages import PagePool, PageTable
from quicksilver.errors import ConfigError, EngineError

NUM_PAGES, SIZE = 7, 4
tokens = st.lists(st.integers(0, 1), min_size=1, max_size=9)


class PageMachine(RuleBasedStateMachine):
    """Requests come, grow, are edited and go; a slot's content is all the text up to its position."""

    def __init__(self):
        super().__init__()
        self.pool = PagePool(NUM_PAGES, SIZE)
        self.memory = [[None] * SIZE for _ in range(NUM_PAGES)]
        self.requests: list[tuple[PageTable, list[int]]] = []

    def write(self, table: PageTable, text: list[int], start: int) -> None:
        for position in range(start, len(text)):
            self.memory[table.pages[position // SIZE]][position % SIZE] = tuple(text[: position + 1])

    def grow(self, table: PageTable, text: list[int]) -> bool:
        available, missing = self.pool.num_available, -(-len(text) // SIZE) - len(table.pages)
        before = list(table.pages)
        if missing > available:
            with pytest.raises(EngineError, match="available"):
                table.reserve(len(text))
            assert table.pages == before
            return False
        table.reserve(len(text))
        self.write(table, text, table.num_final)
        table.finish(text)
        return True

    @rule(text=tokens, salt=st.sampled_from([b"", b"other"]))
    def arrive(self, text, salt):
        table = PageTable(self.pool, salt)
        if salt:
            text = [token + 2 for token in text]  # what the salt stands for: other contents
        found = table.adopt_prefix(text)
        assert found % SIZE == 0
        assert found < len(text)
        if self.grow(table, text):
            self.requests.append((table, text))
        else:
            table.release()

    @precondition(lambda self: self.requests)
    @rule(data=st.data(), more=tokens)
    def go_on(self, data, more):
        table, text = data.draw(st.sampled_from(self.requests))
        longer = text + more
        if self.grow(table, longer):
            text[:] = longer

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def scratch(self, data):
        """A step that ends without anything final: slots behind the final ones are overwritten."""
        table, _ = data.draw(st.sampled_from(self.requests))
        for position in range(table.num_final, table.capacity):
            self.memory[table.pages[position // SIZE]][position % SIZE] = "scratch"

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def edit(self, data):
        table, text = data.draw(st.sampled_from(self.requests))
        position = data.draw(st.integers(0, len(text)))
        kept = table.reopen(position)
        assert position - SIZE < kept <= position
        if position < len(text):
            text[position] = 9
            assert self.grow(table, text) or table.num_final == kept
            del text[max(table.num_final, 0) :]

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def leave(self, data):
        index = data.draw(st.integers(0, len(self.requests) - 1))
        table, _ = self.requests.pop(index)
        table.release()
        table.release()  # a second time changes nothing

    @invariant()
    def accounts_agree(self):
        self.pool.check_integrity(table for table, _ in self.requests)

    @invariant()
    def final_slots_hold_their_text(self):
        for table, text in self.requests:
            assert table.num_final == len(text)
            for position in range(table.num_final):
                assert self.memory[table.pages[position // SIZE]][position % SIZE] == tuple(text[: position + 1])


TestPages = PageMachine.TestCase
TestPages.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def table_of(pool: PagePool, text: list[int], salt: bytes = b"") -> PageTable:
    table = PageTable(pool, salt)
    table.adopt_prefix(text)
    table.reserve(len(text))
    table.finish(text)
    return table


def test_a_beginning_is_shared_without_a_copy():
    pool = PagePool(8, 4)
    first = table_of(pool, list(range(10)))
    second = PageTable(pool)
    assert second.adopt_prefix([0, 1, 2, 3, 4, 5, 6, 7, 99]) == 8
    assert second.pages == first.pages[:2]
    assert pool.num_available == 5
    # The last token is computed again, or there would be no row to predict from.
    assert PageTable(pool).adopt_prefix(list(range(8))) == 4


def test_other_text_or_another_salt_is_not_shared():
    pool = PagePool(8, 4)
    table_of(pool, list(range(8)))
    assert PageTable(pool).adopt_prefix([0, 1, 2, 9, 4, 5]) == 0
    assert PageTable(pool).adopt_prefix([4, 5, 6, 7, 8]) == 0
    assert PageTable(pool, b"adapter").adopt_prefix(list(range(8))) == 0


def test_what_nobody_holds_is_kept_until_its_memory_is_needed():
    pool = PagePool(4, 4)
    table_of(pool, list(range(12))).release()
    assert pool.num_available == 4
    again = PageTable(pool)
    assert again.adopt_prefix(list(range(12))) == 8
    again.release()
    # Three of four pages are taken: the end of the old text goes first, its beginning stays.
    table = PageTable(pool)
    table.reserve(12)
    assert PageTable(pool).adopt_prefix(list(range(12))) == 4


def test_an_edit_of_a_published_page_gives_it_up():
    pool = PagePool(8, 4)
    writer, reader = table_of(pool, list(range(10))), table_of(pool, list(range(10)))
    assert writer.reopen(6) == 4
    assert len(writer.pages) == 1
    assert PageTable(pool).adopt_prefix(list(range(10))) == 8
    assert reader.num_final == 10
    # Positions 8 and 9 lie on a page of its own that is not full, so not published.
    assert reader.reopen(9) == 9
    assert len(reader.pages) == 3


def test_wrong_use_is_refused():
    with pytest.raises(ConfigError, match="0 pages of 4"):
        PagePool(0, 4)
    pool = PagePool(2, 4)
    table = table_of(pool, [1, 2])
    with pytest.raises(EngineError, match="3 pages are needed and 1 of 2"):
        PageTable(pool).reserve(12)
    with pytest.raises(EngineError, match="room for 4"):
        table.finish([1, 2, 3, 4, 5])
    with pytest.raises(EngineError, match="2 are"):
        table.finish([1])
    with pytest.raises(EngineError, match="empty table"):
        table.adopt_prefix([1, 2])


def test_integrity_notices_a_leak():
    pool = PagePool(2, 4)
    table_of(pool, [1, 2])
    with pytest.raises(EngineError, match=r"pages \[0\]"):
        pool.check_integrity([])


def test_an_edit_of_a_page_that_another_request_published_first():
    pool = PagePool(8, 4)
    text, edited = list(range(8)), [0, 1, 9, 3, 4, 5, 6, 7]
    first, second = PageTable(pool), PageTable(pool)
    for table in (first, second):  # both compute it at the same time, so nothing is there to adopt
        table.reserve(8)
        table.finish(text)
    assert second.reopen(2) == 2
    second.reserve(8)
    second.finish(edited)
    for table, words in ((first, text), (second, edited)):
        found = PageTable(pool)
        assert found.adopt_prefix([*words, 8]) == 8
        assert found.pages == table.pages
