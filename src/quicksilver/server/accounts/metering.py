"""One request's way through limits, grant and bill."""

from types import TracebackType
from typing import Self

from quicksilver.errors import AccessError, StorageError
from quicksilver.server.accounts.limits import Charge, RateLimiter
from quicksilver.server.accounts.records import Key, Usage
from quicksilver.server.accounts.store import Accounts


class Meter:
    """Admits requests. Knows nothing of HTTP."""

    def __init__(self, accounts: Accounts, limiter: RateLimiter) -> None:
        self.accounts = accounts
        self.limiter = limiter

    def admit(self, key: Key, *, input_tokens: int, max_output_tokens: int) -> "Admission":
        """Let a request of a key run.

        It reads one row. On an event loop call it without a thread: a task that is cancelled while it waits for a
        thread would never learn that it holds something.

        Args:
            key: as it was found for this request.
            input_tokens: what it gives to read.
            max_output_tokens: the most that it may write.

        Raises:
            RateLimitError: the key has to wait.
            QuotaError: its grant does not cover the request.
            InputError: the request alone is more than the key's minute has.
        """
        charge = self.limiter.admit(key.id, key.limits, input_tokens=input_tokens, max_output_tokens=max_output_tokens)
        tokens = input_tokens + max_output_tokens
        try:
            self.accounts.reserve(key.id, tokens)
        except (AccessError, StorageError):
            self.limiter.settle(charge, 0)
            raise
        return Admission(self, charge, tokens)


class Admission:
    """A request that may run: a context manager that gives back what it does not use.

    A request that leaves it without a bill costs nothing and counts as a request only.
    """

    def __init__(self, meter: Meter, charge: Charge, held_tokens: int) -> None:
        self._meter = meter
        self._charge = charge
        self._held_tokens = held_tokens
        self._is_billing = False
        self._is_settled = False

    def bill(self, usage: Usage) -> None:
        """Write down what the request took; it is on the disk when this returns. Blocks: give it a thread.

        Call it before the end of the answer is sent.

        Raises:
            StorageError: it could not be written: do not send the end of the answer.
        """
        self._is_billing = True
        try:
            self._meter.accounts.record(usage)
        finally:
            self._settle(usage.output_tokens)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # While a thread bills, it holds the tokens until they are recorded, even if the task that asked has gone.
        if not self._is_billing:
            self._settle(0)

    def _settle(self, output_tokens: int) -> None:
        self._meter.limiter.settle(self._charge, output_tokens)
        if not self._is_settled:
            self._is_settled = True
            self._meter.accounts.release(self._charge.key_id, self._held_tokens)
