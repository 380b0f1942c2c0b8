"""A board put together: what a vCPU's exits and the devices' wires come to."""

from __future__ import annotations

import threading

import pytest

from tandemu.accel import FirmwareCall, Interrupted, MmioRead, MmioWrite
from tandemu.board import (
    BoardError,
    Hart,
    HartState,
    Instance,
    Lent,
    RiscvVirt,
    assemble_riscv_virt,
    plan_boot,
    raw,
)
from tandemu.board.clock import Clock
from tandemu.board.part import MIB
from tandemu.board.riscv_parts import CLINT, FLASH, PLIC, RAM_BASE, ROM, TEST, UART, VIRTIO
from tandemu.device import DeviceError, SystemEvent
from tandemu.memory import RamRegion
from tests.board.plain_vcpu import PlainVcpu, PlainVm


class Built:
    """An instance with two harts and everything it says."""

    def __init__(self) -> None:
        self.vm = PlainVm()
        self.vcpus = [PlainVcpu(0), PlainVcpu(1)]
        self.printed = bytearray()
        self.events: list[tuple[SystemEvent, int]] = []
        lent = Lent(
            console=self.printed.extend,
            event=lambda kind, code: self.events.append((kind, code)),
            time_of_day=lambda: 10**18,
        )
        board = RiscvVirt(memory_bytes=4 * MIB, harts=2)
        self.instance: Instance = assemble_riscv_virt(board, self.vm, self.vcpus, lent)

    def read(self, address: int, size: int = 4, hart: int = 0) -> int | None:
        assert self.instance.handle(self.vcpus[hart], MmioRead(address, size))
        return self.vcpus[hart].answers.pop()

    def write(self, address: int, value: int, size: int = 4) -> int | None:
        assert self.instance.handle(self.vcpus[0], MmioWrite(address, size, value))
        return self.vcpus[0].answers.pop()


@pytest.fixture
def built() -> Built:
    return Built()


def slots_of(built: Built) -> dict[int, RamRegion]:
    return {region.base: region for region in built.vm.memory.regions}


def test_memory_slots(built: Built) -> None:
    slots = slots_of(built)
    assert sorted(slots) == [ROM.base, *FLASH.bases(), RAM_BASE]
    assert [slots[base].readonly for base in sorted(slots)] == [True, True, True, False]


def test_accesses(built: Built) -> None:
    for byte in b"hi":
        assert built.write(UART.base, byte, 1) == 0
    assert bytes(built.printed) == b"hi"
    assert built.read(UART.base + 5, 1) == 0x60
    assert built.read(VIRTIO.base + 0x1000) == 0x74726976
    assert built.read(0x3000_0000) == 0x0008_1B36
    assert built.read(0x3000_8000) == 0xFFFF_FFFF
    assert built.read(CLINT.base + 0xBFF8, 8) == 1234
    assert built.read(0x0) is None and built.write(0x2400_0000, 1) is None
    assert built.write(ROM.base, 1) is None
    assert not built.instance.handle(built.vcpus[0], Interrupted())
    assert not built.instance.handle(built.vcpus[0], FirmwareCall())
    built.write(TEST.base, 0x5555)
    assert built.events == [(SystemEvent.POWER_OFF, 0)]


def test_uart_interrupts_the_harts_supervisor(built: Built) -> None:
    built.write(PLIC.base + 10 * 4, 1)
    built.write(PLIC.base + 0x2000 + 3 * 0x80, 1 << 10)
    built.write(UART.base + 1, 1, 1)
    built.instance.uart.receive(b"x")
    assert built.vcpus[1].lines == {9: True} and not built.vcpus[0].lines
    assert built.read(PLIC.base + 0x200004 + 3 * 0x1000, hart=1) == 10
    assert built.vcpus[1].lines == {9: False}


def test_clint_reaches_the_harts(built: Built) -> None:
    built.write(CLINT.base + 4, 1)
    built.write(CLINT.base + 0x4008, 99, 8)
    assert built.vcpus[1].lines == {3: True}
    assert built.vcpus[1].registers["mtimecmp"] == 99


def test_flash_comes_and_goes(built: Built) -> None:
    base = FLASH.base
    built.write(base + 0x154, 0x0098_0098)
    assert base not in slots_of(built)
    assert built.read(base + 0x40) == ord("Q") << 16 | ord("Q")
    built.write(base, 0x00FF_00FF)
    assert slots_of(built)[base].readonly


def test_begin_in_machine_mode(built: Built) -> None:
    plan = plan_boot(
        built.instance.board, firmware=raw(memoryview(b"code"), "fw"), builtin_firmware=False
    )
    built.instance.begin(plan)
    for hart in built.instance.harts:
        assert hart.wait(0) and hart.begin()
        built.instance.enter(hart)
    assert [vcpu.registers["pc"] for vcpu in built.vcpus] == [ROM.base] * 2
    assert bytes(built.instance.memories["ram"].view[:4]) == b"code"


def test_begin_in_supervisor_mode(built: Built) -> None:
    kernel = raw(memoryview(b"code"), "kernel")
    built.instance.begin(plan_boot(built.instance.board, kernel=kernel))
    assert [hart.state for hart in built.instance.harts] == [
        HartState.START_PENDING,
        HartState.STOPPED,
    ]


def test_saved_state(built: Built) -> None:
    built.write(UART.base + 7, 0x77, 1)
    saved = built.instance.save()
    built.instance.reset_devices()
    assert built.read(UART.base + 7, 1) == 0
    built.instance.load(saved)
    assert built.read(UART.base + 7, 1) == 0x77
    with pytest.raises(BoardError, match="differ in: uart"):
        built.instance.load({name: state for name, state in saved.items() if name != "uart"})
    with pytest.raises(DeviceError, match="Uart16550"):
        built.instance.load({**saved, "uart": {"version": 1}})


def test_wrong_number_of_vcpus() -> None:
    with pytest.raises(BoardError, match="cannot have 1 vCPU"):
        lent = Lent(lambda data: None, lambda kind, code: None)
        assemble_riscv_virt(RiscvVirt(harts=2), PlainVm(), [PlainVcpu(0)], lent)


def test_hart_waits_for_its_start() -> None:
    hart = Hart(1, PlainVcpu(1))
    assert not hart.wait(0)
    woken = threading.Event()

    def thread() -> None:
        while hart.wait():
            woken.set()
            hart.stop()

    runner = threading.Thread(target=thread)
    runner.start()
    assert hart.start(RAM_BASE, 5)
    assert woken.wait(10)
    hart.release()
    runner.join(10)
    assert not runner.is_alive()


def test_alarm_rings_unless_called_off() -> None:
    rung = threading.Event()
    alarm = Clock().alarm()
    alarm.ring = rung.set
    alarm.set(2**63)
    alarm.set(None)
    assert not rung.is_set()
    alarm.set(1)
    assert rung.wait(10)
    alarm.close()
    rung.clear()
    alarm.set(1)
    assert not rung.is_set()


def test_close_frees_the_memory(built: Built) -> None:
    built.instance.close()
    assert all(ram.fd == -1 for ram in built.instance.memories.values())
    assert not built.instance.harts[1].wait()
