"""The entropy device: Virtio 1.2, section 5.4. The host's random bytes are the guest's."""

from __future__ import annotations

import os

from tandemu.device.virtio.core import VirtioDevice
from tandemu.device.virtqueue.queue import Chain, copy_out

_MOST_BYTES = 1 << 16
_QUEUE_SIZE = 64


class Entropy(VirtioDevice):
    """Fills buffers with random bytes."""

    number = 4
    title = "virtio-rng"
    pci_class = 0x10_0000

    def list_queues(self) -> tuple[int, ...]:
        return (_QUEUE_SIZE,)

    def serve(self, index: int, chain: Chain) -> int:
        return copy_out(os.urandom(min(chain.writable_bytes, _MOST_BYTES)), chain.writable)
