"""Dirty logs of the kernel, for those of `memory` (``KVM_MEM_LOG_DIRTY_PAGES``)."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from tandemu.bits import Record
from tandemu.kvm import abi
from tandemu.kvm.structures import DIRTY_LOG
from tandemu.memory import RamRegion
from tandemu.memory.layout import PAGE_SHIFT

if TYPE_CHECKING:
    from tandemu.kvm.vm import KvmVm


class Slot(Record):
    """A memory slot as the kernel has it."""

    number: int
    region: RamRegion
    flags: int


class KernelTracker:
    """What vCPUs wrote, as the kernel logs it (`memory.WriteTracker`)."""

    def __init__(self, vm: KvmVm) -> None:
        self._vm = vm

    def begin(self, region: RamRegion) -> None:
        """Have the kernel log writes to *region*."""
        self._set(region, True)

    def end(self, region: RamRegion) -> None:
        """Have it log them no more, which lets the guest write faster."""
        self._set(region, False)

    def _set(self, region: RamRegion, logs: bool) -> None:
        slot = self._vm.slots.get(region.base)
        if slot is not None and slot.region is region:
            flags = slot.flags & ~abi.MEM_LOG_DIRTY_PAGES
            self._vm.change_flags(slot, flags | (abi.MEM_LOG_DIRTY_PAGES if logs else 0))

    def collect(self, region: RamRegion) -> bytes | None:
        """The kernel's log, which reading clears: the next write to a page is noted again."""
        slot = self._vm.slots.get(region.base)
        if slot is None or not slot.flags & abi.MEM_LOG_DIRTY_PAGES:
            return None
        pages = region.size >> PAGE_SHIFT
        bitmap = (ctypes.c_uint64 * ((pages + 63) // 64))()  # the kernel writes whole words
        request = DIRTY_LOG.ctype(slot=slot.number, dirty_bitmap=ctypes.addressof(bitmap))
        self._vm.file.structure(abi.GET_DIRTY_LOG, request)
        return bytes(bitmap)[: (pages + 7) // 8]

    def watch(self) -> None:
        """Nothing to do: `collect` did it."""
