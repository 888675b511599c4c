"""Pages of key/value memory: which are free, who holds them, whose contents can be shared.

Bookkeeping only; the tensors belong to the runner. A page holds the keys and values of ``page_size`` consecutive
positions of one request, in every layer. What a request has finished is final: full pages of final positions are
published under a key that stands for all tokens up to the page's end, and a later request with the same beginning takes
them over instead of computing them. Slots behind the last final position are scratch, which any step may overwrite.

Chained keys follow vLLM's and nano-vllm's prefix caches; here a page is published only when all of its blocks are
final, and a published page is never written again.
"""

import hashlib
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence

from quicksilver.errors import ConfigError, EngineError

_KEY_BYTES = 16


class PagePool:
    """Reference counts of pages and the index of published ones.

    A page is free, held by one or more tables, or idle: published, held by nobody, kept until its memory is needed.
    Idle pages are given up oldest first.
    """

    def __init__(self, num_pages: int, page_size: int) -> None:
        if min(num_pages, page_size) < 1:
            raise ConfigError(f"a page pool needs pages and slots, got {num_pages} pages of {page_size}")
        self.num_pages, self.page_size = num_pages, page_size
        self._free = deque(range(num_pages))
        self._holders = [0] * num_pages
        self._keys: list[bytes | None] = [None] * num_pages
        self._published: dict[bytes, int] = {}
        self._idle: OrderedDict[int, bytes] = OrderedDict()

    @property
    def num_available(self) -> int:
        """Pages that can be taken: free and idle ones."""
        return len(self._free) + len(self._idle)

    def pages_for(self, num_positions: int) -> int:
        """Pages that have room for so many positions."""
        return -(-num_positions // self.page_size)

    def take(self, count: int) -> list[int]:
        """``count`` pages for one holder each, contents undefined.

        Raises:
            EngineError: fewer are available; none is taken.
        """
        if count > self.num_available:
            raise EngineError(f"{count} pages are needed and {self.num_available} of {self.num_pages} are available")
        return [self._take_one() for _ in range(count)]

    def _take_one(self) -> int:
        if self._free:
            page = self._free.popleft()
        else:
            page, key = self._idle.popitem(last=False)
            del self._published[key]
            self._keys[page] = None
        self._holders[page] = 1
        return page

    def share(self, key: bytes) -> int | None:
        """The page published under ``key``, with one more holder; None if there is none."""
        page = self._published.get(key)
        if page is not None:
            self._idle.pop(page, None)
            self._holders[page] += 1
        return page

    def release(self, pages: Sequence[int]) -> None:
        """One holder less each. The last pages become idle first, so that beginnings outlive their continuations."""
        for page in reversed(pages):
            self._holders[page] -= 1
            if self._holders[page] == 0:
                key = self._keys[page]
                if key is None:
                    self._free.append(page)
                else:
                    self._idle[page] = key

    def publish(self, page: int, key: bytes) -> None:
        """Let other requests find the page. If its contents are published already, nothing changes."""
        if key not in self._published:
            self._published[key] = page
            self._keys[page] = key

    def is_published(self, page: int) -> bool:
        """Whether the page may be found by others, and so must not be written."""
        return self._keys[page] is not None

    def check_integrity(self, tables: Iterable["PageTable"]) -> None:
        """Compare the accounts with the tables that hold pages.

        Raises:
            EngineError: they disagree; the message says how.
        """
        holders = [0] * self.num_pages
        for table in tables:
            table.check_integrity()
            for page in table.pages:
                holders[page] += 1
        if holders != self._holders:
            wrong = [page for page in range(self.num_pages) if holders[page] != self._holders[page]]
            raise EngineError(f"pages {wrong} are held by another number of tables than counted")
        free = sorted(self._free)
        unheld = [page for page in range(self.num_pages) if holders[page] == 0]
        if sorted(free + list(self._idle)) != unheld:
            raise EngineError("the free and the idle pages are not those that nobody holds")
        if any(self._keys[page] is not None for page in free) or any(self._keys[page] is None for page in self._idle):
            raise EngineError("a free page is published, or an idle one is not")
        if {key: page for page, key in enumerate(self._keys) if key is not None} != self._published:
            raise EngineError("the index of published pages and their keys disagree")


class PageTable:
    """The pages of one request, in order of position."""

    def __init__(self, pool: PagePool, salt: bytes = b"") -> None:
        """An empty table.

        Args:
            pool: where pages come from.
            salt: what else keys and values depend on: adapter, attention rule, block grid, tenant.
        """
        self.pages: list[int] = []
        self.num_final = 0
        """Positions whose keys and values are final."""
        self._pool = pool
        self._root = hashlib.blake2b(salt, digest_size=_KEY_BYTES).digest()
        self._keys: list[bytes] = []

    @property
    def capacity(self) -> int:
        """Positions the pages have room for."""
        return len(self.pages) * self._pool.page_size

    def num_missing(self, num_positions: int) -> int:
        """Pages that ``reserve`` would take."""
        return max(self._pool.pages_for(num_positions) - len(self.pages), 0)

    def adopt_prefix(self, token_ids: Sequence[int]) -> int:
        """Take over published pages of a beginning of ``token_ids``; returns how many positions they hold.

        Only pages that were published are found, so what may not be shared never is.

        The last token is never taken over: a request needs at least one row to compute.
        """
        if self.pages:
            raise EngineError("only an empty table can adopt a prefix")
        size = self._pool.page_size
        for start in range(0, max(len(token_ids) - 1, 0) // size * size, size):
            key = self._next_key(token_ids[start : start + size])
            page = self._pool.share(key)
            if page is None:
                break
            self.pages.append(page)
            self._keys.append(key)
        self.num_final = len(self.pages) * size
        return self.num_final

    def reserve(self, num_positions: int) -> None:
        """Hold enough pages for ``num_positions``.

        Raises:
            EngineError: the pool cannot give them; the table is as before.
        """
        self.pages += self._pool.take(self.num_missing(num_positions))

    def finish(self, token_ids: Sequence[int], num_shareable: int | None = None) -> None:
        """The positions of all of ``token_ids``, a continuation of what was final before, are final now.

        Args:
            token_ids: from the first position on.
            num_shareable: pages beyond this position are not published; None: all full pages are.
        """
        size = self._pool.page_size
        if not self.num_final <= len(token_ids) <= self.capacity:
            raise EngineError(
                f"{len(token_ids)} positions cannot be final: {self.num_final} are, with room for {self.capacity}"
            )
        self.num_final = len(token_ids)
        num_published = self.num_final if num_shareable is None else min(self.num_final, num_shareable)
        for index in range(len(self._keys), num_published // size):
            key = self._next_key(token_ids[index * size : (index + 1) * size])
            self._keys.append(key)
            self._pool.publish(self.pages[index], key)

    def reopen(self, position: int) -> int:
        """Positions from ``position`` on are no longer final; returns how many still are.

        A published page is given up whole, since others may read it, so its first positions must be computed again.
        """
        if position >= self.num_final:
            return self.num_final
        size = self._pool.page_size
        index = position // size
        is_kept = position % size > 0 and not self._pool.is_published(self.pages[index])
        self._drop_from(index + is_kept)
        del self._keys[index:]
        self.num_final = position if is_kept else index * size
        return self.num_final

    def release(self) -> None:
        """Give all pages back."""
        self._drop_from(0)
        self.num_final = 0

    def _drop_from(self, index: int) -> None:
        self._pool.release(self.pages[index:])
        del self.pages[index:], self._keys[index:]

    def _next_key(self, token_ids: Sequence[int]) -> bytes:
        parent = self._keys[-1] if self._keys else self._root
        words = b"".join(token.to_bytes(4, "little") for token in token_ids)
        return hashlib.blake2b(parent + words, digest_size=_KEY_BYTES).digest()

    def check_integrity(self) -> None:
        """Raises EngineError if the table contradicts itself."""
        if self.num_final > self.capacity or len(set(self.pages)) != len(self.pages):
            raise EngineError(f"a table of pages {self.pages} cannot have {self.num_final} final positions")
        if len(self._keys) > self.num_final // self._pool.page_size:
            raise EngineError("a page is keyed that is not final")
