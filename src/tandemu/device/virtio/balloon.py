"""The balloon device: Virtio 1.2, section 5.5. The guest gives memory back to the host.

The guest fills the balloon as far as `target_bytes` says; what is in it costs the host nothing.
With free page reporting it also tells of pages that it does not use just then, by itself. A page
that the guest uses again is zero: what it held is gone.

Left out: free page hints (they are for migration), page poisoning.
"""

from __future__ import annotations

import struct

from tandemu.device.registers import state
from tandemu.device.virtio.core import VirtioDevice
from tandemu.device.virtqueue.queue import Chain, copy_in

INFLATE, DEFLATE, STATISTICS, REPORTING = range(4)
PAGE_BYTES = 4096
_MUST_TELL, _STATISTICS, _DEFLATE_ON_OOM, _REPORTING = 1 << 0, 1 << 1, 1 << 2, 1 << 5
_QUEUE_SIZE = 128
_CONFIGURATION = struct.Struct("<IIII")
_ACTUAL_OFFSET = 4
_MOST_FRAMES = 1 << 16
_STATISTIC = struct.Struct("<HQ")
STATISTICS_NAMES = (
    *("swap_in", "swap_out", "major_faults", "minor_faults", "free_bytes", "total_bytes"),
    *("available_bytes", "cache_bytes", "huge_page_allocations", "huge_page_failures"),
)
"""What the guest tells of itself, by the number of each."""


class Balloon(VirtioDevice):
    """A balloon in the guest's memory."""

    number = 5
    title = "virtio-balloon"
    pci_class = 0xFF_0000

    target_pages: int = state(32)
    actual_pages: int = state(32)

    def prepare(self) -> None:
        super().prepare()
        self.returned_bytes = 0
        """What was given back to the host in all."""
        self.statistics: dict[str, int] = {}
        self._held: Chain | None = None
        """The guest's buffer for statistics, which it has back when new ones are wanted."""

    def list_queues(self) -> tuple[int, ...]:
        return (_QUEUE_SIZE,) * 4

    @property
    def features(self) -> int:
        return _MUST_TELL | _STATISTICS | _DEFLATE_ON_OOM | _REPORTING

    def configuration(self) -> bytes:
        return _CONFIGURATION.pack(self.target_pages, self.actual_pages, 0, 0)

    def write_configuration(self, offset: int, data: bytes) -> None:
        if offset == _ACTUAL_OFFSET and len(data) == 4:
            self.actual_pages = int.from_bytes(data, "little")

    # The host's side ---------------------------------------------------------------------

    @property
    def target_bytes(self) -> int:
        """How much the guest is asked to give back."""
        return self.target_pages * PAGE_BYTES

    @target_bytes.setter
    def target_bytes(self, value: int) -> None:
        self.target_pages = max(0, min(value // PAGE_BYTES, (1 << 32) - 1))
        self.change_configuration()

    @property
    def actual_bytes(self) -> int:
        """How much the guest says is in the balloon."""
        return self.actual_pages * PAGE_BYTES

    def ask_for_statistics(self) -> None:
        """Have the guest tell anew; `statistics` changes when it has. Any thread."""
        self.rest()
        try:
            if self._held is not None and self.is_live(STATISTICS):
                chain, self._held = self._held, None
                self.guarded(lambda: self.complete(STATISTICS, chain, 0))()
        finally:
            self.go_on()

    def statistics_of_requests(self) -> dict[str, int]:
        return {**super().statistics_of_requests(), "bytes_returned": self.returned_bytes}

    # Queues ------------------------------------------------------------------------------

    def serve(self, index: int, chain: Chain) -> int | None:
        if index == INFLATE:
            data = copy_in(chain.readable, 4 * _MOST_FRAMES)
            self._give_back(data)
        elif index == REPORTING:
            for view, address in zip(chain.writable, chain.writable_addresses, strict=True):
                self._discard(address, len(view))
        elif index == STATISTICS:
            data = copy_in(chain.readable, _STATISTIC.size * 64)
            whole = len(data) - len(data) % _STATISTIC.size
            for tag, value in _STATISTIC.iter_unpack(data[:whole]):
                if tag < len(STATISTICS_NAMES):
                    self.statistics[STATISTICS_NAMES[tag]] = value
            if self._held is not None:  # one is enough; a second has no meaning
                return 0
            self._held = chain
            return None
        return 0

    def _give_back(self, frames: bytes) -> None:
        """Discard the page frames whose numbers *frames* has, neighbours together."""
        numbers = {number for (number,) in struct.iter_unpack("<I", frames[: len(frames) & ~3])}
        for first in sorted(number for number in numbers if number - 1 not in numbers):
            end = first
            while end in numbers:
                end += 1
            self._discard(first * PAGE_BYTES, (end - first) * PAGE_BYTES)

    def _discard(self, address: int, size: int) -> None:
        """Have the host take the whole pages of a range; what is no RAM is passed over."""
        start = -(-address // PAGE_BYTES) * PAGE_BYTES
        end = (address + size) // PAGE_BYTES * PAGE_BYTES
        if start < end and self.memory.discard(start, end - start):
            self.returned_bytes += end - start

    def stopped(self) -> None:
        self._held = None

    def stopped_queue(self, index: int) -> None:
        if index == STATISTICS:
            self._held = None
