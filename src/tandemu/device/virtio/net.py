"""The network card: Virtio 1.2, section 5.1.

Frames go straight between the guest's buffers and the network behind the card (`net.link`), with
the header that says what checksums and segments are left to the other side. One worker serves all
queues and the network's own descriptors, so a network needs no locks.

Left out, and not offered: mergeable buffers (a guest that takes large packets offers buffers for
whole ones), several queues, receive-side scaling, and UDP segmentation.
"""

from __future__ import annotations

import os
import select
import struct
from collections.abc import Callable

from tandemu.device.registers import DeviceError, state
from tandemu.device.virtio.core import VirtioDevice
from tandemu.device.virtio.net_filter import CONTROL_COMMANDS, CardFilter
from tandemu.device.virtqueue.layout import Status as QueueStatus
from tandemu.device.virtqueue.queue import Chain, QueueFault, copy_in
from tandemu.net.link import HEADER_BYTES, LARGEST_FRAME, Network, Offload
from tandemu.net.traffic import Traffic

RECEIVE, TRANSMIT, CONTROL = range(3)
_QUEUE_SIZE = 256
_CONTROL_SIZE = 64
_BATCH = 128
"""Frames taken in one go, before the network's own descriptors have their turn."""
_SMALLEST_FRAME = HEADER_BYTES + 14
_LONGEST_COMMAND = 8192

_CHECKSUM, _GUEST_CHECKSUM, _MTU, _MAC = 1 << 0, 1 << 1, 1 << 3, 1 << 5
_GUEST_TCP4, _GUEST_TCP6, _HOST_TCP4, _HOST_TCP6 = 1 << 7, 1 << 8, 1 << 11, 1 << 12
_STATUS, _CONTROL, _CONTROL_RX, _CONTROL_VLAN = 1 << 16, 1 << 17, 1 << 18, 1 << 19
_ANNOUNCE, _CONTROL_MAC = 1 << 21, 1 << 23
_LINK_UP, _ANNOUNCE_NEEDED = 1, 2


class NetworkCard(VirtioDevice):
    """A card with the address *mac* (6 bytes) on *network*; *traffic* counts and captures."""

    number = 1
    title = "virtio-net"
    pci_class = 0x02_0000

    network: Network
    mac: bytes
    traffic: Traffic

    link_down: int = state(1)
    announcing: int = state(1)
    """Whether the guest is to tell the network of its addresses."""

    def prepare(self) -> None:
        if len(self.mac) != 6 or self.mac[0] & 1:
            raise DeviceError(f"a card with the address {self.mac.hex(':')}: must be one station's")
        super().prepare()
        self.accepts = Offload(0)
        self._filter = CardFilter(self.mac)
        self._worker = self.workers[0]
        self._room: Chain | None = None
        self._views: list[memoryview] = []
        self._attached = False
        self._blocked = False

    def list_queues(self) -> tuple[int, ...]:
        return _QUEUE_SIZE, _QUEUE_SIZE, _CONTROL_SIZE

    @property
    def features(self) -> int:
        """What the network behind takes, the guest may leave to it; and the other way round."""
        offered = _MTU | _MAC | _STATUS | _CONTROL | _CONTROL_RX | _CONTROL_VLAN | _CONTROL_MAC
        offered |= _ANNOUNCE
        for offload, bits in (
            (Offload.CHECKSUM, _CHECKSUM | _GUEST_CHECKSUM),
            (Offload.TCP4, _HOST_TCP4 | _GUEST_TCP4),
            (Offload.TCP6, _HOST_TCP6 | _GUEST_TCP6),
        ):
            if self.network.offloads & offload:
                offered |= bits
        return offered

    def _acceptable(self) -> bool:
        # Segmentation needs the checksum's completion (section 5.1.3.1).
        features = self.driver_features
        if features & (_GUEST_TCP4 | _GUEST_TCP6) and not features & _GUEST_CHECKSUM:
            return False
        if features & (_HOST_TCP4 | _HOST_TCP6) and not features & _CHECKSUM:
            return False
        needs_control = _CONTROL_RX | _CONTROL_VLAN | _ANNOUNCE | _CONTROL_MAC
        if features & needs_control and not features & _CONTROL:
            return False
        return super()._acceptable()

    def configuration(self) -> bytes:
        status = (0 if self.link_down else _LINK_UP) | (_ANNOUNCE_NEEDED if self.announcing else 0)
        return self.mac + struct.pack("<HHH", status, 1, self.network.mtu)

    # The link ------------------------------------------------------------------------------

    def set_link(self, *, up: bool) -> None:
        """Plug the cable in, or out. Any thread but the worker's."""
        self.rest()
        try:
            if bool(self.link_down) == (not up):
                return
            self.link_down = int(not up)
            self.announcing = int(up and self.has(_ANNOUNCE))
            if self.is_live(RECEIVE):
                self._attach()
        finally:
            self.go_on()
        self.change_configuration()
        self.kick(TRANSMIT)

    def at_rest(self, action: Callable[[], None]) -> None:
        """Carry out *action*, which changes the network, while nothing happens in it."""
        self.rest()
        try:
            action()
        finally:
            self.go_on()

    def started(self) -> None:
        features = self.driver_features
        accepts = Offload(0)
        if features & _GUEST_CHECKSUM:
            accepts |= Offload.CHECKSUM
        if features & _GUEST_TCP4:
            accepts |= Offload.TCP4
        if features & _GUEST_TCP6:
            accepts |= Offload.TCP6
        self.accepts = accepts
        self._filter.enabled = self.network.filters
        self._filter.vlans_filtered = bool(features & _CONTROL_VLAN)
        self._worker.watch(self.traffic.timer, self.guarded(self._limit_over))
        self._attach()

    def _attach(self) -> None:
        """Have the network attached while the cable is plugged in."""
        if self._attached and self.link_down:
            self.network.detach()
            self._attached = False
        elif not self._attached and not self.link_down:
            self._attached = True
            self.network.attach(self)

    def watch(
        self, descriptor: int, callback: Callable[[], None], events: int = select.EPOLLIN
    ) -> None:
        """Call *callback* on the worker while *descriptor* is ready."""
        self._worker.watch(descriptor, self.guarded(callback), events)

    def forget(self, descriptor: int) -> None:
        """Watch *descriptor*, which is still open, no more."""
        self._worker.forget(descriptor)

    # From the guest ------------------------------------------------------------------------

    def kicked(self, index: int) -> None:
        if index == TRANSMIT:
            self._transmit()
        elif index == RECEIVE:
            if self._attached and self._blocked:
                self._blocked = False
                self.network.resume()
        else:
            self.drain(index)

    def _transmit(self) -> None:
        queue, chain = self.queues[TRANSMIT], self._chains[TRANSMIT]
        traffic, worker = self.traffic, self._worker
        wanted = False
        for _ in range(_BATCH):
            if traffic.limited and (delay_s := traffic.sending.delay_s()):
                traffic.wake_after(delay_s)
                break
            if worker.wanted or not queue.pop(chain):
                break
            size = chain.readable_bytes
            if not _SMALLEST_FRAME <= size <= LARGEST_FRAME:
                traffic.refused += 1
            elif self._attached:
                views = chain.readable
                traffic.sent_frames += 1
                traffic.sent_bytes += size - HEADER_BYTES
                if traffic.watched:
                    traffic.note_sent(views, size)
                self.network.send(views, size)
            wanted |= queue.push(chain, 0)
            self.requests += 1
        else:
            os.eventfd_write(self.kicks[TRANSMIT], 1)
        if worker.wanted:
            os.eventfd_write(self.kicks[TRANSMIT], 1)
        if wanted:
            self.queue_interrupt(TRANSMIT)
        if self._attached:
            self.network.flush()

    def _limit_over(self) -> None:
        """The rate's limit lets frames through again."""
        self.traffic.woken()
        self.kick(TRANSMIT)
        self.kick(RECEIVE)

    def serve(self, index: int, chain: Chain) -> int:
        """Carry out a command of the control queue (section 5.1.6.5)."""
        if chain.readable_bytes > _LONGEST_COMMAND:
            raise QueueFault(QueueStatus.TOO_LONG)
        command = copy_in(chain.readable, _LONGEST_COMMAND)
        if not chain.writable_bytes:
            raise QueueFault(QueueStatus.BAD_ORDER)
        done = self._carry_out(command)
        chain.writable[0][:1] = b"\0" if done else b"\1"
        return 1

    def _carry_out(self, command: bytes) -> bool:
        if len(command) < 2:
            return False
        kind = command[0], command[1]
        feature = {0: _CONTROL_RX, 1: _CONTROL_RX, 2: _CONTROL_VLAN, 3: _ANNOUNCE}.get(kind[0], 0)
        if kind == (1, 1):
            feature = _CONTROL_MAC
        if not self.has(feature):
            return False
        if kind == (3, 0):
            self.announcing = 0
            return True
        action = CONTROL_COMMANDS.get(kind)
        return action is not None and action(self._filter, command[2:])

    # To the guest --------------------------------------------------------------------------

    def room(self) -> list[memoryview] | None:
        """The guest's next buffer; see `net.link.Port`."""
        if self._room is None:
            traffic = self.traffic
            if traffic.limited and (delay_s := traffic.receiving.delay_s()):
                self._blocked = True
                traffic.wake_after(delay_s)
                return None
            chain = self.take(RECEIVE)
            if chain is None:
                self._blocked = True
                return None
            if chain.writable_bytes < _SMALLEST_FRAME:
                raise QueueFault(QueueStatus.TOO_LONG)
            self._room = chain
            self._views = chain.writable
        return self._views

    def commit(self, size: int) -> None:
        """Hand over what was written into `room`; see `net.link.Port`."""
        chain, views = self._room, self._views
        assert chain is not None
        traffic = self.traffic
        if self._filter.enabled and not self._filter.passes(copy_in(views, HEADER_BYTES + 18)):
            return  # for others: the buffer is used for the next one
        traffic.received_frames += 1
        traffic.received_bytes += size - HEADER_BYTES
        if traffic.watched:
            traffic.note_received(views, size)
        self._room = None
        self._views = []
        self.complete(RECEIVE, chain, size)

    # Life ----------------------------------------------------------------------------------

    def statistics_of_requests(self) -> dict[str, int]:
        """What the card and its network have done so far. Any thread."""
        return {
            **super().statistics_of_requests(),
            **self.traffic.statistics(),
            **self.network.statistics(),
        }

    def stopped(self) -> None:
        if self._attached:
            self._attached = False
            self.network.detach()
        self._worker.forget(self.traffic.timer)
        self._room, self._views, self._blocked = None, [], False
        self.accepts = Offload(0)
        self._filter = CardFilter(self.mac)

    def stopped_queue(self, index: int) -> None:
        if index == RECEIVE:
            self._room, self._views, self._blocked = None, [], True

    def reset(self) -> None:
        """The cable stays as it is."""
        link_down = self.link_down
        super().reset()
        self.link_down = link_down

    def close(self) -> None:
        self.rest()
        self.stopped()
        self.go_on()
        super().close()
