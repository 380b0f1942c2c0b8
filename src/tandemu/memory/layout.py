"""The structures of guest memory that Python and generated code share.

A `GuestMemory` has one `GUEST_MEMORY` structure for its whole life. Its slot table is
replaced as a whole, never changed in place, so generated code that has loaded the address
of one goes on with a table that is consistent. `tandemu.slots` has the code that reads them.
"""

from __future__ import annotations

from tandemu.bits import U64, Layout

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT

SLOT_LIMIT = 64
"""Regions that a guest's memory may consist of at a time."""

SLOT = Layout("Slot", base=U64, size=U64, host=U64, pages=U64, flags=U64)
"""A region. *host*: host address of its first byte; *pages*: host address of one byte of
`PAGE_*` flags for each page; *flags*: `SLOT_READONLY`."""

SLOT_READONLY = 1

SLOT_TABLE = Layout("SlotTable", count=U64, slots=SLOT[SLOT_LIMIT])
"""The first *count* slots are valid. The largest comes first: it is asked for most."""

CODE_LOG = 4096

GUEST_MEMORY = Layout("GuestMemory", slots=U64, code_generation=U64, code_log=U64[CODE_LOG])
"""*slots* is the host address of the `SLOT_TABLE` in force.

*code_generation* counts writes to pages that held translated code, *code_log* has the latest
of their guest-physical addresses; the low bits of an entry say which generation it is of."""

PAGE_CODE = 1
"""Some vCPU has translated code from the page: the first write to it must be seen."""
PAGE_WRITTEN = 2
"""Some TLB may hold a write entry for it."""
PAGE_WATCHED = 4
"""A dirty log waits for the first write to it."""
PAGE_DIRTY = 0xF8
"""A bit for each dirty log that can be open at a time: written since that log was read last.
A write sets all of them, whether a log is open or not."""

DIRTY_BITS = tuple(bit for bit in (8, 16, 32, 64, 128) if bit & PAGE_DIRTY)
