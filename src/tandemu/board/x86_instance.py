"""An ``x86-microvm`` put together: ports and addresses, wires, RAM slots, exits answered.

Local APICs, I/O APIC and clocks are the engine's; a device's wire is an input of the I/O APIC.
The first processor begins at the kernel, the others wait in the engine until it starts them.
Left to the machine: threads, resets (it builds anew), time-outs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol, runtime_checkable

from tandemu.accel import Exit, MmioRead, MmioWrite, PortRead, PortWrite, Vcpu, Vm
from tandemu.board.acpi_power import AcpiPower, PanicPort
from tandemu.board.clock import Clock
from tandemu.board.errors import BoardError
from tandemu.board.hart import Hart
from tandemu.board.x86_loader import X86BootPlan
from tandemu.board.x86_microvm import (
    FINISHER,
    PANIC,
    POWER,
    POWER_BUTTON,
    SERIAL,
    VIRTIO,
    X86Microvm,
)
from tandemu.device import Peripheral, State, SystemEvent
from tandemu.device.empty_slot import EmptyVirtioSlot
from tandemu.device.syscon import Syscon
from tandemu.device.uart16550 import Uart16550
from tandemu.memory import DeviceMap, Ram, RamRegion

_WRITE_BACK = 0x806
"""MTRRs on, memory is write-back by default: what firmware would have set."""


@runtime_checkable
class InterruptController(Protocol):
    """What this board asks of an engine's VM besides `accel.Vm`."""

    def set_interrupt_line(self, gsi: int, level: bool) -> None:
        """Set an input of the interrupt controllers. Any thread."""


@runtime_checkable
class WriteCoalescer(Protocol):
    """What this board makes use of if an engine's VM offers it."""

    def coalesce_port(self, port: int, take: Callable[[bytes], None]) -> None:
        """Let *take* have writes of one byte to an I/O port together, while many come."""


@runtime_checkable
class SettableAtOnce(Protocol):
    """What this board asks of a vCPU besides `accel.Vcpu`."""

    def set_many(self, values: Mapping[str, int]) -> None:
        """Set registers by name, at once."""


class X86Instance:
    """One board, running. Made by `build_x86`."""

    def __init__(self, board: X86Microvm, vm: Vm, vcpus: Sequence[Vcpu]) -> None:
        if len(vcpus) != board.harts:
            raise BoardError(f"a board of {board.harts} CPUs cannot have {len(vcpus)} vCPUs")
        self.board = board
        self.vm = vm
        self.map = DeviceMap()
        self.ports = DeviceMap()
        """The I/O ports, a space of addresses of its own."""
        self.harts = [Hart(index, vcpu) for index, vcpu in enumerate(vcpus)]
        self.devices: dict[str, Peripheral] = {}
        """Every device that has state, by the name under which it is saved."""
        self.memories: dict[str, Ram] = {}
        self.clock = Clock()
        self.uart: Uart16550
        self.press_power_button: Callable[[], None] = lambda: None
        self._registers: Mapping[str, int] = {}

    def handle(self, vcpu: Vcpu, exit: Exit) -> bool:
        """Answer an exit; False if it is none of the board's affairs. The vCPU's own thread."""
        if isinstance(exit, PortWrite):
            self.ports.write(exit.port, exit.size, exit.value)
            return True
        if isinstance(exit, PortRead):
            vcpu.complete(self.ports.read(exit.port, exit.size))
            return True
        if isinstance(exit, MmioWrite):
            found = self.map.write(exit.address, exit.size, exit.value)
            vcpu.complete(0 if found else None)
            return True
        if isinstance(exit, MmioRead):
            vcpu.complete(self.map.read(exit.address, exit.size))
            return True
        return False

    def begin(self, plan: X86BootPlan) -> None:
        """Load everything and let all processors run. Once."""
        plan.write(self.vm.memory)
        self._registers = plan.registers
        for hart in self.harts:
            hart.start(plan.entry, 0)

    def enter(self, hart: Hart) -> None:
        """Put the first processor where it begins; the engine starts the others. Its own thread."""
        vcpu = hart.vcpu
        if isinstance(vcpu, SettableAtOnce):
            vcpu.set_many({"mtrr_def_type": _WRITE_BACK})
            if hart.index == 0:
                vcpu.set_many(self._registers)

    def reset_devices(self) -> None:
        """Put every device into its state after reset."""
        for device in self.devices.values():
            device.reset()

    def save(self) -> dict[str, State]:
        """The state of all devices. No vCPU may be running."""
        return {name: device.save() for name, device in self.devices.items()}

    def load(self, saved: Mapping[str, Mapping[str, object]]) -> None:
        """Restore what `save` returned; DeviceError says what does not fit."""
        if saved.keys() != self.devices.keys():
            odd = ", ".join(sorted(saved.keys() ^ self.devices.keys()))
            raise BoardError(f"the saved state is of another board; they differ in: {odd}")
        for name, device in self.devices.items():
            device.load(saved[name])

    def close(self) -> None:
        """Free the memory. No vCPU may be running."""
        for hart in self.harts:
            hart.release()
        self.clock.close()
        for ram in self.memories.values():
            ram.close()


def build_x86(
    board: X86Microvm,
    vm: Vm,
    vcpus: Sequence[Vcpu],
    *,
    console: Callable[[bytes], None],
    event: Callable[[SystemEvent, int], None],
    console_ready: Callable[[], None] = lambda: None,
) -> X86Instance:
    """Put *board* together on an engine's *vm* and *vcpus*; the callables run on vCPU threads.

    *console* takes what the UART transmits, *console_ready* hears that the UART has
    room again; *event* takes power-off, reset, panic and the exit code.
    """
    if not isinstance(vm, InterruptController):
        raise BoardError(
            "the board x86-microvm needs an engine with APICs: use --accel kvm, on an x86-64 host"
        )
    controller: InterruptController = vm
    instance = X86Instance(board, vm, vcpus)
    ram = instance.memories["ram"] = Ram(board.memory_bytes, "guest-ram")
    offset = 0
    for place in board.memory:
        vm.set_memory_slot(RamRegion(place.start, len(place), ram, offset))
        offset += len(place)

    def line(number: int) -> Callable[[bool], None]:
        return partial(controller.set_interrupt_line, number)

    uart = instance.uart = Uart16550(console, line(SERIAL.interrupt), console_ready)
    if isinstance(vm, WriteCoalescer):
        vm.coalesce_port(SERIAL.base, uart.write_burst)
    for name, base, size, device in (
        ("uart", SERIAL.base, SERIAL.size, uart),
        ("power", POWER.base, POWER.size, AcpiPower(event)),
        ("panic", PANIC.base, PANIC.size, PanicPort(event)),
    ):
        instance.devices[name] = device
        instance.ports.add_device(base, size, device)
    finisher = instance.devices["finisher"] = Syscon(event)
    instance.map.add_device(FINISHER.base, FINISHER.size, finisher)
    for base in VIRTIO.bases()[: board.virtio]:
        instance.map.add_device(base, VIRTIO.size, EmptyVirtioSlot())

    def press() -> None:
        controller.set_interrupt_line(POWER_BUTTON, True)
        controller.set_interrupt_line(POWER_BUTTON, False)

    instance.press_power_button = press
    return instance
