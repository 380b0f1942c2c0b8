"""What structures look like to the guest's programs and to the host's kernel, where they differ.

Sources: Linux, asm-generic/stat.h and arch/x86/include/uapi/asm/stat.h, eventpoll.h.
"""

from __future__ import annotations

from tandemu.bits import U32, U64, Layout

HOST_STAT = Layout(
    "HostStat",
    device=U64, inode=U64, links=U64, mode=U32, user=U32, group=U32, pad=U32, special=U64,
    size=U64, block_size=U64, blocks=U64, access=U64, access_ns=U64, change=U64, change_ns=U64,
    status=U64, status_ns=U64, rest=U64[3],
)  # fmt: skip
GENERIC_STAT = Layout(
    "GenericStat",
    device=U64, inode=U64, mode=U32, links=U32, user=U32, group=U32, special=U64, pad=U64,
    size=U64, block_size=U32, pad2=U32, blocks=U64, access=U64, access_ns=U64, change=U64,
    change_ns=U64, status=U64, status_ns=U64, rest=U32[2],
)  # fmt: skip

HOST_EVENT_SIZE, GUEST_EVENT_SIZE = 12, 16
"""struct epoll_event: x86-64 alone packs it."""

MESSAGE = Layout(
    "Message",
    name=U64, name_size=U32, pad=U32, vectors=U64, count=U64, control=U64, control_size=U64,
    flags=U32, pad2=U32,
)  # fmt: skip
"""struct msghdr of a 64-bit system."""
VECTOR = Layout("Vector", base=U64, size=U64)
"""struct iovec of a 64-bit system."""
MOST_VECTORS = 1024
"""UIO_MAXIOV"""
