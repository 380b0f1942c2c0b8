"""What every virtio device is: status, features, queues, configuration (Virtio 1.2, chapter 2).

A device is a subclass with its number, its own features, its queues' sizes, and `serve`. A
transport (`pci`, `mmio`) shows it to the guest and takes its interrupts. Queues are served on
worker threads; a kick only wakes one.

A driver that breaks the rules of a queue gets DEVICE_NEEDS_RESET, and the device does nothing
more until it is reset.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from time import perf_counter_ns
from typing import ClassVar

from tandemu.device.registers import Peripheral, RegisterMap, State, state, states
from tandemu.device.virtio.features import (
    COMMON_FEATURES,
    DRIVER_OK,
    EVENT_INDEX,
    FEATURES_OK,
    INDIRECT_DESCRIPTORS,
    NEEDS_RESET,
    RING_PACKED,
    VERSION_1,
)
from tandemu.device.virtio.worker import Worker
from tandemu.device.virtqueue.queue import Chain, QueueFault, Virtqueue
from tandemu.memory import GuestMemory

QUEUE_LIMIT = 64
"""Queues that a device may have."""
LATENCY_CLASSES = 24
"""The last but one has requests of less than 4 s."""
_POSITIONS = ("next_available", "next_used", "available_wrap", "used_wrap")


class VirtioDevice(Peripheral):
    """A device that reaches guest memory through *memory*.

    *queue_sizes*, which the subclass fills in `prepare_queues`, are the most each may have.
    """

    registers = RegisterMap()

    number: ClassVar[int]
    """Which kind of device (chapter 5)."""
    title: ClassVar[str]
    """What it is called."""
    pci_class: ClassVar[int] = 0xFF_0000

    memory: GuestMemory

    status: int = state(8)
    driver_features: int = state(64)
    device_feature_select: int = state(32)
    driver_feature_select: int = state(32)
    queue_select: int = state(16)
    generation: int = state(8)
    configured_sizes: list[int] = states(QUEUE_LIMIT, 16)
    enabled: list[int] = states(QUEUE_LIMIT, 1)
    descriptor_areas: list[int] = states(QUEUE_LIMIT, 64)
    driver_areas: list[int] = states(QUEUE_LIMIT, 64)
    device_areas: list[int] = states(QUEUE_LIMIT, 64)
    next_available: list[int] = states(QUEUE_LIMIT, 16)
    next_used: list[int] = states(QUEUE_LIMIT, 16)
    available_wrap: list[int] = states(QUEUE_LIMIT, 1, 1)
    used_wrap: list[int] = states(QUEUE_LIMIT, 1, 1)

    def prepare(self) -> None:
        self.queue_sizes: tuple[int, ...] = self.list_queues()
        self.queues = [Virtqueue(self.memory) for _ in self.queue_sizes]
        self._changing = threading.RLock()
        names = sorted({self.worker_of(index) for index in range(len(self.queues))})
        self.workers = {name: Worker(f"{self.title} {name}") for name in names}
        self.kicks = [
            self.workers[self.worker_of(index)].add_kick(self._server(index))
            for index in range(len(self.queues))
        ]
        """For each queue the event descriptor that stands for its kick."""
        self._chains = [Chain(self.memory) for _ in self.queues]
        self.queue_interrupt: Callable[[int], None] = lambda index: None
        self.configuration_interrupt: Callable[[], None] = lambda: None
        self.may_reach_memory: Callable[[], bool] = lambda: True
        """Filled in by the transport."""
        self.requests = 0
        self.latencies = [0] * LATENCY_CLASSES
        """How many requests took less than 1, 2, 4 … microseconds; the last class has the rest."""
        self._reset_queues()

    # What a subclass is ------------------------------------------------------------------

    def list_queues(self) -> tuple[int, ...]:
        """The largest size of each queue."""
        raise NotImplementedError

    @property
    def features(self) -> int:
        """The features of this kind of device that are offered."""
        return 0

    def worker_of(self, index: int) -> int:
        """Which worker serves queue *index*: those of one number share it."""
        return 0

    def configuration(self) -> bytes:
        """The device's own configuration, as the guest reads it."""
        return b""

    def write_configuration(self, offset: int, data: bytes) -> None:
        """The guest writes *data* to its own configuration; the default ignores it."""

    def serve(self, index: int, chain: Chain) -> int | None:
        """Carry out the request *chain* of queue *index*; how many bytes were written to it.

        None: the chain is kept, and handed back with `complete`. On the queue's worker.
        """
        raise NotImplementedError

    def kicked(self, index: int) -> None:
        """Queue *index* was kicked: serve all that is in it. A device that only takes what it
        has use for has another."""
        self.drain(index)

    def started(self) -> None:
        """The driver is ready. Workers are at rest or not begun."""

    def stopped(self) -> None:
        """The device was reset. Workers are at rest."""

    # Queues ------------------------------------------------------------------------------

    def _server(self, index: int) -> Callable[[], None]:
        def run() -> None:
            if self.is_live(index):
                self.kicked(index)

        return self.guarded(run)

    def guarded(self, callback: Callable[[], None]) -> Callable[[], None]:
        """*callback*, for a worker: a rule that the driver breaks in it ends in `fail`."""

        def run() -> None:
            try:
                callback()
            except QueueFault:
                self.fail()

        return run

    def is_live(self, index: int) -> bool:
        """Whether queue *index* may be used."""
        return (
            bool(self.enabled[index])
            and self.status & (DRIVER_OK | NEEDS_RESET) == DRIVER_OK
            and self.may_reach_memory()
        )

    def drain(self, index: int) -> None:
        """Serve what is in queue *index* until it is empty or somebody wants the worker to rest."""
        queue, chain = self.queues[index], self._chains[index]
        worker = self.workers[self.worker_of(index)]
        pop, push, serve = queue.pop, queue.push, self.serve
        latencies = self.latencies
        while pop(chain):
            begun = perf_counter_ns()
            written = serve(index, chain)
            took = (perf_counter_ns() - begun) // 1000
            latencies[min(took.bit_length(), LATENCY_CLASSES - 1)] += 1
            self.requests += 1
            if written is None:
                self.keep(index)
                chain = self._chains[index]
            elif push(chain, written):
                self.queue_interrupt(index)
            if worker.wanted:
                os.eventfd_write(self.kicks[index], 1)
                return

    def take(self, index: int) -> Chain | None:
        """The next chain of queue *index*, for who fills it and then calls `complete`."""
        if not self.is_live(index):
            return None
        chain = self._chains[index]
        return chain if self.queues[index].pop(chain) else None

    def keep(self, index: int) -> None:
        """What was taken last stays with the device: the next chain has room of its own."""
        self._chains[index] = Chain(self.memory)

    def complete(self, index: int, chain: Chain, written: int) -> None:
        """Hand *chain* back."""
        if self.queues[index].push(chain, written):
            self.queue_interrupt(index)

    def kick(self, index: int) -> None:
        """The driver has put something into queue *index*. Any thread."""
        if index < len(self.kicks) and self.enabled[index]:
            os.eventfd_write(self.kicks[index], 1)

    def fail(self) -> None:
        """The driver broke a rule: nothing more until it resets the device."""
        self.status |= NEEDS_RESET
        if self.status & DRIVER_OK:
            self.change_configuration()

    def change_configuration(self) -> None:
        """What `configuration` returns is another now. Any thread."""
        self.generation = self.generation + 1 & 0xFF
        self.configuration_interrupt()

    def statistics_of_requests(self) -> dict[str, int]:
        """What the device has done so far: counters by name. Any thread.

        *latency_below_N_us* are requests by the time that they took here, none that took less
        than half of N.
        """
        found = {"requests": self.requests}
        for number, count in enumerate(list(self.latencies)):
            if count:
                found[f"latency_below_{1 << number}_us"] = count
        return found

    # Registers, as both transports have them ---------------------------------------------

    @property
    def offered(self) -> int:
        """All features that are offered."""
        return self.features | COMMON_FEATURES

    def read_device_features(self) -> int:
        """The 32 offered features that are selected."""
        if self.device_feature_select > 1:
            return 0
        return self.offered >> 32 * self.device_feature_select & 0xFFFF_FFFF

    def read_driver_features(self) -> int:
        """The 32 accepted features that are selected."""
        if self.driver_feature_select > 1:
            return 0
        return self.driver_features >> 32 * self.driver_feature_select & 0xFFFF_FFFF

    def write_driver_features(self, value: int) -> None:
        """Accept features; they stand once FEATURES_OK is set."""
        if self.driver_feature_select > 1 or self.status & FEATURES_OK:
            return
        shift = 32 * self.driver_feature_select
        self.driver_features = self.driver_features & ~(0xFFFF_FFFF << shift) | value << shift

    def write_status(self, value: int) -> None:
        """Go on in the initialisation (section 3.1), or reset with 0."""
        if value == 0:
            self.reset()
            return
        with self._changing:
            before = self.status
            if value & FEATURES_OK and not before & FEATURES_OK and not self._acceptable():
                value &= ~FEATURES_OK
            if not value & FEATURES_OK:
                value &= ~DRIVER_OK
            self.status = value | before & NEEDS_RESET
            if self.status & DRIVER_OK and not before & DRIVER_OK:
                self._start()

    def _acceptable(self) -> bool:
        accepted = self.driver_features
        return accepted & ~self.offered == 0 and bool(accepted & VERSION_1)

    def has(self, feature: int) -> bool:
        """Whether *feature* was negotiated."""
        return bool(self.driver_features & feature)

    @property
    def selected(self) -> int | None:
        """The selected queue, if there is one of that number."""
        return self.queue_select if self.queue_select < len(self.queues) else None

    def read_queue_size(self) -> int:
        """The selected queue's size; 0 where there is no queue."""
        index = self.selected
        return 0 if index is None else self.configured_sizes[index]

    def write_queue_size(self, value: int) -> None:
        """Make the selected queue smaller, before it is enabled."""
        index = self.selected
        if index is None or self.enabled[index]:
            return
        packed = self.has(RING_PACKED)
        if 0 < value <= self.queue_sizes[index] and (packed or value & value - 1 == 0):
            self.configured_sizes[index] = value

    def write_queue_area(self, areas: list[int], value: int, shift: int) -> None:
        """Set half of an address of one of the selected queue's areas, before it is enabled."""
        index = self.selected
        if index is not None and not self.enabled[index]:
            areas[index] = areas[index] & ~(0xFFFF_FFFF << shift) | value << shift

    def read_queue_area(self, areas: list[int], shift: int) -> int:
        """What `write_queue_area` set."""
        index = self.selected
        return 0 if index is None else areas[index] >> shift & 0xFFFF_FFFF

    def read_queue_enable(self) -> int:
        """Whether the selected queue is enabled."""
        index = self.selected
        return 0 if index is None else self.enabled[index]

    def enable_queue(self) -> None:
        """Let the device use the selected queue."""
        index = self.selected
        if index is None or self.enabled[index]:
            return
        with self._changing:
            self._load_queue(index)
            self.enabled[index] = 1
            if self.status & DRIVER_OK:
                self.kick(index)

    def reset_queue(self) -> None:
        """Forget the selected queue (section 2.6.1)."""
        index = self.selected
        if index is None:
            return
        worker = self.workers[self.worker_of(index)]
        worker.rest()
        try:
            self._forget_queue(index)
            self.stopped_queue(index)
        finally:
            worker.go_on()

    def stopped_queue(self, index: int) -> None:
        """Queue *index* was reset by itself. Its worker is at rest."""

    def read_configuration(self, offset: int, size: int) -> int:
        """Read the device's own configuration; zero behind its end."""
        data = self.configuration()[offset : offset + size]
        return int.from_bytes(data, "little")

    # Life --------------------------------------------------------------------------------

    def _start(self) -> None:
        for worker in self.workers.values():
            worker.start()
        self.started()
        for index in range(len(self.queues)):
            self.kick(index)

    def _forget_queue(self, index: int) -> None:
        self.enabled[index] = 0
        self.configured_sizes[index] = self.queue_sizes[index]
        for areas in (self.descriptor_areas, self.driver_areas, self.device_areas):
            areas[index] = 0
        self.next_available[index] = self.next_used[index] = 0
        self.available_wrap[index] = self.used_wrap[index] = 1
        self._load_queue(index)

    def _reset_queues(self) -> None:
        for index in range(len(self.queues)):
            self._forget_queue(index)

    def _load_queue(self, index: int) -> None:
        """Give the native code what is declared state."""
        queue = self.queues[index]
        fields = queue.fields
        queue.set_packed(self.has(RING_PACKED))
        fields.size = self.configured_sizes[index]
        fields.descriptors = self.descriptor_areas[index]
        fields.driver = self.driver_areas[index]
        fields.device = self.device_areas[index]
        fields.event_index = int(self.has(EVENT_INDEX))
        fields.indirect = int(self.has(INDIRECT_DESCRIPTORS))
        fields.silent = 0
        for name in _POSITIONS:
            setattr(fields, name, getattr(self, name)[index])

    def rest(self) -> None:
        """Return when no request is being carried out, and begin none until `go_on`."""
        for worker in self.workers.values():
            worker.rest()

    def go_on(self) -> None:
        """The end of `rest`."""
        for worker in self.workers.values():
            worker.go_on()

    def save(self) -> State:
        """The declared state; the device must be at rest."""
        for index, queue in enumerate(self.queues):
            for name in _POSITIONS:
                getattr(self, name)[index] = getattr(queue.fields, name)
        return super().save()

    def load(self, saved: Mapping[str, object]) -> None:
        """Restore what `save` returned, and go on with what is in the queues."""
        self.rest()
        try:
            super().load(saved)
            for index in range(len(self.queues)):
                size, packed = self.configured_sizes[index], self.has(RING_PACKED)
                if not 0 < size <= self.queue_sizes[index] or (not packed and size & size - 1):
                    self.configured_sizes[index] = self.queue_sizes[index]
                if packed:
                    self.next_available[index] %= self.configured_sizes[index]
                    self.next_used[index] %= self.configured_sizes[index]
                self._load_queue(index)
            if self.status & DRIVER_OK:
                self._start()
        finally:
            self.go_on()

    def reset(self) -> None:
        """The driver, or the machine, resets the device: nothing of before goes on."""
        with self._changing:
            self.rest()
            try:
                super().reset()
                self._reset_queues()
                self.stopped()
            finally:
                self.go_on()

    def close(self) -> None:
        """End the workers. No vCPU may be running."""
        for worker in self.workers.values():
            worker.close()
        for kick in self.kicks:
            os.close(kick)
        self.kicks = []
