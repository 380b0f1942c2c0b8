"""Writes to an I/O port that the kernel keeps for a while: Linux virt/kvm/api.rst, 4.116.

The kernel puts them into a ring, a page that all vCPUs of a VM share; `accel.busy_port` says when.

Left out: more than one port of a VM, writes of more than a byte, memory.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable

from tandemu.accel.busy_port import BusyPort
from tandemu.kvm import abi
from tandemu.kvm.calls import File
from tandemu.kvm.structures import COALESCED_MMIO, COALESCED_MMIO_RING, COALESCED_MMIO_ZONE

_FIRST, _LAST = (COALESCED_MMIO_RING.offset(name) // 4 for name in ("first", "last"))
_ENTRY_BYTES = COALESCED_MMIO.size
_PLACES = (mmap.PAGESIZE - COALESCED_MMIO_RING.size) // _ENTRY_BYTES


class CoalescedPort(BusyPort):
    """Writes of one byte to *port* of a VM: *take* gets them in order, on a vCPU's thread.

    *vm* is the VM's file, *vcpu* that of one of its vCPUs, at whose *page* the ring is. *nudge*
    has a vCPU leave the kernel, which then calls `drain`.
    """

    def __init__(
        self,
        vm: File,
        vcpu: File,
        page: int,
        port: int,
        take: Callable[[bytes], None],
        nudge: Callable[[], None],
    ) -> None:
        super().__init__(take)
        self.port = port
        self._vm = vm
        self._nudge = nudge
        self._zone = COALESCED_MMIO_ZONE.ctype(addr=port, size=1, pio=1)
        self._memory = mmap.mmap(vcpu.fd, mmap.PAGESIZE, offset=page * mmap.PAGESIZE)
        view = memoryview(self._memory)
        self._ends = view.cast("I")
        self._values = view[COALESCED_MMIO_RING.size + COALESCED_MMIO.offset("data") :]
        """The value of each place, `_ENTRY_BYTES` apart."""
        view.release()

    @property
    def waiting(self) -> bool:
        """Whether the kernel keeps writes that nobody has taken."""
        ends = self._ends
        return ends[_FIRST] != ends[_LAST]

    def _keep_writes(self, keep: bool) -> None:
        request = abi.REGISTER_COALESCED_MMIO if keep else abi.UNREGISTER_COALESCED_MMIO
        self._vm.structure(request, self._zone)

    def _kept(self) -> bytes:
        first, last = self._ends[_FIRST], self._ends[_LAST] % _PLACES
        begin, end = first * _ENTRY_BYTES, last * _ENTRY_BYTES
        if first <= last:
            data = bytes(self._values[begin:end:_ENTRY_BYTES])
        else:
            data = bytes(self._values[begin::_ENTRY_BYTES])
            data += bytes(self._values[:end:_ENTRY_BYTES])
        self._ends[_FIRST] = last
        return data

    def _look(self) -> None:
        self._nudge()

    def close(self) -> None:
        """End the thread and let go of the ring. No vCPU may be running."""
        super().close()
        self._ends.release()
        self._values.release()
        self._memory.close()
