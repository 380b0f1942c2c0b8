"""One request of the guest's, and the table of what carries requests out."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from struct import Struct
from typing import TYPE_CHECKING, Any, NamedTuple

from tandemu.host.share.inodes import failure
from tandemu.host.share.protocol import Opcode

if TYPE_CHECKING:
    from tandemu.host.share.server import Share


class Request(NamedTuple):
    """*body* is what stands behind the header; *data* the rest of what the guest sent, unread.

    *room* are the buffers for what stands behind the header of the reply.
    """

    node: int
    uid: int
    gid: int
    body: bytes
    data: Sequence[memoryview]
    room: Sequence[memoryview]

    def unpack(self, structure: Struct) -> tuple[Any, ...]:
        """The structure that the body begins with; OSError if the body is shorter."""
        if len(self.body) < structure.size:
            raise failure(errno.EINVAL)
        return structure.unpack_from(self.body)

    def names(self, structure: Struct | None, count: int) -> list[bytes]:
        """The *count* zero-terminated names behind *structure*."""
        rest = self.body[0 if structure is None else structure.size :]
        parts = rest.split(b"\0")
        if len(parts) <= count:
            raise failure(errno.EINVAL)
        return parts[:count]

    @property
    def room_bytes(self) -> int:
        """How much the reply may hold."""
        return sum(map(len, self.room))


Answer = bytes | int
"""What stands behind the reply's header: the bytes, or how many are in `Request.room` already."""

Operation = Callable[["Share", Request], Answer]
OPERATIONS: dict[Opcode, Operation] = {}
WRITING: set[Opcode] = set()
"""Those that change the folder, which one that is shared read-only refuses."""


def operation(opcode: Opcode, *, writes: bool = False) -> Callable[[Operation], Operation]:
    """Have the function that follows carry out *opcode*."""

    def add(function: Operation) -> Operation:
        OPERATIONS[opcode] = function
        if writes:
            WRITING.add(opcode)
        return function

    return add
