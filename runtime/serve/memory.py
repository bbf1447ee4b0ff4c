"""The bytes that all requests together may hold."""

from __future__ import annotations

from cir_rt.serve.problem import Problem

_RETRY_AFTER_S = 1


class Memory:
    """A count of bytes held; belongs to the event loop's thread."""

    def __init__(self, limit_bytes: int) -> None:
        """Take the most that may be held at once."""
        self.limit_bytes = limit_bytes
        self.held_bytes = 0

    def hold(self) -> Held:
        """Return what one request holds, nothing yet; leave it to let go."""
        return Held(self)


class Held:
    """The bytes of one request, given back at the end of `with`."""

    def __init__(self, memory: Memory) -> None:
        """Hold nothing; `Memory.hold` makes it."""
        self._memory = memory
        self._bytes = 0

    def add(self, count: int) -> None:
        """Hold more. Raises Problem where all requests together would hold too much."""
        if self._memory.held_bytes + count > self._memory.limit_bytes:
            raise Problem(
                "busy",
                "Too many uploads at once. Try again.",
                retry_after_s=_RETRY_AFTER_S,
            )
        self._memory.held_bytes += count
        self._bytes += count

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        self._memory.held_bytes -= self._bytes
        self._bytes = 0
