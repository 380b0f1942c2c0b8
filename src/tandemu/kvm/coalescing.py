"""Writes to an I/O port that the kernel keeps for a while: Linux virt/kvm/api.rst, 4.116.

A guest that prints writes to one port again and again, and each write is an exit. While many
come, the kernel is told to put them into a ring instead (a page that all vCPUs of a VM share), and
they are taken from there, together, before anything else is done that made a vCPU leave the
kernel: nothing can tell the difference. Where no exit comes by itself a thread sees to it within
some milliseconds. A quiet port is not coalesced: its writes are exits, and there is no thread.

Left out: more than one port of a VM, writes of more than a byte, memory.
"""

from __future__ import annotations

import mmap
import threading
import time
from collections.abc import Callable

from tandemu.kvm import abi
from tandemu.kvm.calls import File
from tandemu.kvm.structures import COALESCED_MMIO, COALESCED_MMIO_RING, COALESCED_MMIO_ZONE

BUSY_WRITES, BUSY_S = 64, 0.1
"""So many writes in so much time make a port a busy one."""
_TICK_S = 0.002
"""How often a busy port is looked at: a serial line of 115,200 baud empties its FIFO in 1.4 ms."""
_QUIET_TICKS = 50
_FIRST, _LAST = (COALESCED_MMIO_RING.offset(name) // 4 for name in ("first", "last"))
_ENTRY_BYTES = COALESCED_MMIO.size
_PLACES = (mmap.PAGESIZE - COALESCED_MMIO_RING.size) // _ENTRY_BYTES


class CoalescedPort:
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
        self.port = port
        self._vm = vm
        self._take = take
        self._nudge = nudge
        self._zone = COALESCED_MMIO_ZONE.ctype(addr=port, size=1, pio=1)
        self._memory = mmap.mmap(vcpu.fd, mmap.PAGESIZE, offset=page * mmap.PAGESIZE)
        view = memoryview(self._memory)
        self._ends = view.cast("I")
        self._values = view[COALESCED_MMIO_RING.size + COALESCED_MMIO.offset("data") :]
        """The value of each place, `_ENTRY_BYTES` apart."""
        view.release()
        self._draining = threading.Lock()
        self._switching = threading.Lock()
        self._busy = False
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._since_s = 0.0
        self._writes = 0
        self._taken = 0

    @property
    def waiting(self) -> bool:
        """Whether the kernel keeps writes that nobody has taken."""
        ends = self._ends
        return ends[_FIRST] != ends[_LAST]

    def wrote(self) -> None:
        """A write came as an exit. On a vCPU's thread."""
        if self._busy:  # the ring is full
            return
        now_s = time.monotonic()
        if now_s - self._since_s > BUSY_S:
            self._since_s, self._writes = now_s, 0
        self._writes += 1
        if self._writes >= BUSY_WRITES:
            self._begin()

    def drain(self) -> None:
        """Hand over what the kernel has kept. On a vCPU's thread, before its exit is answered."""
        with self._draining:
            first, last = self._ends[_FIRST], self._ends[_LAST] % _PLACES
            begin, end = first * _ENTRY_BYTES, last * _ENTRY_BYTES
            if first <= last:
                data = bytes(self._values[begin:end:_ENTRY_BYTES])
            else:
                data = bytes(self._values[begin::_ENTRY_BYTES])
                data += bytes(self._values[:end:_ENTRY_BYTES])
            self._ends[_FIRST] = last
            self._taken += len(data)
            if data:
                self._take(data)

    def _begin(self) -> None:
        with self._switching:
            if self._busy or self._closing.is_set():
                return
            self._busy = True
            self._vm.structure(abi.REGISTER_COALESCED_MMIO, self._zone)
            self._thread = threading.Thread(target=self._watch, name="coalesced port", daemon=True)
            self._thread.start()

    def _watch(self) -> None:
        """While the port is busy, see to it that nothing stays in the ring."""
        quiet, seen = 0, -1
        while quiet < _QUIET_TICKS and not self._closing.wait(_TICK_S):
            if self._taken != seen:
                quiet, seen = 0, self._taken
            elif self.waiting:  # and no exit since the last tick
                self._nudge()
            else:
                quiet += 1
        with self._switching:
            self._vm.structure(abi.UNREGISTER_COALESCED_MMIO, self._zone)
            self._since_s, self._busy = 0.0, False
        # What was written meanwhile is taken at the next exit, which need not come.
        self._nudge()

    def close(self) -> None:
        """End the thread and let go of the ring. No vCPU may be running."""
        with self._switching:
            self._closing.set()
        if self._thread is not None:
            self._thread.join()
        self._ends.release()
        self._values.release()
        self._memory.close()
