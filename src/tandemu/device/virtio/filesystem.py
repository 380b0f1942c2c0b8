"""The file system device: Virtio 1.2, section 5.11, over a FUSE server.

Left out: the DAX window, notifications.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tandemu.device.registers import DeviceError
from tandemu.device.virtio.core import VirtioDevice
from tandemu.device.virtqueue.queue import Chain

TAG_BYTES = 36
MOST_QUEUES = 16
HIGH_PRIORITY = 0
_HIGH_PRIORITY_SIZE, _REQUEST_SIZE = 128, 1024


class FileServer(Protocol):
    """What answers requests (`host.share.Share`)."""

    def handle(self, readable: Sequence[memoryview], writable: Sequence[memoryview]) -> int: ...

    def restart(self) -> None: ...


class FileSystem(VirtioDevice):
    """A file system that the guest mounts as *tag*, served by *server* on *queue_count* queues."""

    number = 26
    title = "virtio-fs"
    pci_class = 0x01_8000

    server: FileServer
    tag: bytes
    queue_count: int = 1

    def prepare(self) -> None:
        if not 0 < len(self.tag) <= TAG_BYTES or b"\0" in self.tag:
            raise DeviceError(f"a file system's tag of {len(self.tag)} bytes: must be 1 to 36")
        if not 0 < self.queue_count <= MOST_QUEUES:
            raise DeviceError(f"a file system with {self.queue_count} queues: 1 to {MOST_QUEUES}")
        super().prepare()

    def list_queues(self) -> tuple[int, ...]:
        return (_HIGH_PRIORITY_SIZE, *(_REQUEST_SIZE,) * self.queue_count)

    def worker_of(self, index: int) -> int:
        return index

    def configuration(self) -> bytes:
        return self.tag.ljust(TAG_BYTES, b"\0") + self.queue_count.to_bytes(4, "little")

    def serve(self, index: int, chain: Chain) -> int:
        return self.server.handle(chain.readable, chain.writable)

    def stopped(self) -> None:
        self.server.restart()
