"""The built-in SBI, call by call, against the specification's tables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandemu.accel import Fence
from tandemu.board import Hart, HartState
from tandemu.device import SystemEvent
from tandemu.firmware import Sbi
from tandemu.firmware.sbi import BASE, DBCN, HSM, IPI, PMU, RFENCE, SRST, TIME
from tandemu.memory import GuestMemory, Ram, RamRegion
from tests.board.plain_vcpu import PlainVcpu

RAM_BASE, RAM_BYTES, ROM_BASE = 0x8000_0000, 0x10000, 0x1000
ONES = 2**64 - 1
NOT_SUPPORTED, INVALID_PARAM, INVALID_ADDRESS, ALREADY_AVAILABLE = -2, -3, -5, -6


class Machine:
    """Three harts, of which 0 and 1 run, and the firmware."""

    def __init__(self, xlen: int = 64) -> None:
        self.vcpus = [PlainVcpu(index) for index in range(3)]
        self.harts = [Hart(index, vcpu) for index, vcpu in enumerate(self.vcpus)]
        for hart in self.harts[:2]:
            hart.start(RAM_BASE, 0)
            assert hart.wait() and hart.begin()
        self.memory = GuestMemory()
        self.ram = Ram(RAM_BYTES)
        self.memory.add(RamRegion(RAM_BASE, self.ram.size, self.ram))
        self.memory.add(RamRegion(ROM_BASE, 0x1000, Ram(0x1000), readonly=True))
        self.printed = bytearray()
        self.typed = bytearray()
        self.events: list[tuple[SystemEvent, int]] = []
        self.sbi = Sbi(
            self.harts,
            self.memory,
            xlen=xlen,
            console=self.printed.extend,
            event=lambda kind, code: self.events.append((kind, code)),
            console_input=self.read,
        )
        self.ones = (1 << xlen) - 1

    def read(self, limit: int) -> bytes:
        taken = bytes(self.typed[:limit])
        del self.typed[:limit]
        return taken

    def call(
        self, extension: int, function: int, *arguments: int, hart: int = 0
    ) -> tuple[int, int]:
        registers = self.vcpus[hart].registers
        registers.update({f"a{number}": 0 for number in range(8)})
        registers.update({f"a{number}": value for number, value in enumerate(arguments)})
        registers["a7"], registers["a6"] = extension, function
        self.sbi.call(self.harts[hart])
        error = registers["a0"]
        return (error - self.ones - 1 if error > self.ones // 2 else error), registers["a1"]


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_base(machine: Machine) -> None:
    assert machine.call(BASE, 0) == (0, 0x0200_0000)
    for extension in (0, 1, 8, BASE, TIME, IPI, RFENCE, HSM, SRST, PMU, DBCN):
        assert machine.call(BASE, 3, extension) == (0, 1)
    for extension in (9, 0x53555350, 0x43505043, 0x0A000000):
        assert machine.call(BASE, 3, extension) == (0, 0)
    assert [machine.call(BASE, function) for function in (4, 5, 6)] == [(0, 0)] * 3


@pytest.mark.parametrize(
    ("extension", "function"),
    [(BASE, 7), (TIME, 1), (RFENCE, 3), (HSM, 4), (0x12345678, 0), (9, 0)],
)
def test_unknown_calls(machine: Machine, extension: int, function: int) -> None:
    assert machine.call(extension, function, 1, 2, 3) == (NOT_SUPPORTED, 0)


def test_timer(machine: Machine) -> None:
    assert machine.call(TIME, 0, 2**40) == (0, 0)
    assert machine.vcpus[0].registers["stimecmp"] == 2**40
    assert machine.vcpus[0].lines == {5: False}
    narrow = Machine(xlen=32)
    narrow.call(TIME, 0, 7, 1)
    assert narrow.vcpus[0].registers["stimecmp"] == 1 << 32 | 7
    assert narrow.call(9, 0) == (NOT_SUPPORTED, 0)


@pytest.mark.parametrize(
    ("bits", "base", "result", "reached"),
    [
        (1, 0, 0, [0]),
        (2, 0, 0, [1]),
        (1, 1, 0, [1]),
        (7, 0, 0, [0, 1]),
        (0, ONES, 0, [0, 1]),
        (0xFFFF, ONES, 0, [0, 1]),
        (0, 0, 0, []),
        (8, 0, INVALID_PARAM, []),
        (1, 3, INVALID_PARAM, []),
        (1, ONES - 1, INVALID_PARAM, []),
    ],
)
def test_hart_masks(
    machine: Machine, bits: int, base: int, result: int, reached: list[int]
) -> None:
    """Harts that are stopped exist, but get nothing."""
    assert machine.call(IPI, 0, bits, base) == (result, 0)
    assert [vcpu.index for vcpu in machine.vcpus if vcpu.lines.get(1)] == reached
    assert machine.call(RFENCE, 0, bits, base) == (result, 0)
    assert [vcpu.index for vcpu in machine.vcpus if vcpu.fences] == reached


@pytest.mark.parametrize(
    ("function", "arguments", "fence"),
    [
        (0, (), Fence(instructions=True)),
        (1, (0, 0), Fence()),
        (1, (0x4000, ONES), Fence()),
        (1, (0x4000, 0x2000), Fence(start=0x4000, size=0x2000)),
        (1, (0x4000, 0), Fence(start=0x4000, size=1)),
        (2, (0x4000, 0x1000, 5), Fence(start=0x4000, size=0x1000, asid=5)),
        (2, (0, ONES, 5), Fence(asid=5)),
    ],
)
def test_remote_fences(
    machine: Machine, function: int, arguments: tuple[int, ...], fence: Fence
) -> None:
    assert machine.call(RFENCE, function, 2, 0, *arguments) == (0, 0)
    assert machine.vcpus[1].fences == [fence] and not machine.vcpus[0].fences


def test_hart_life(machine: Machine) -> None:
    assert machine.call(HSM, 2, 2) == (0, HartState.STOPPED)
    assert machine.call(HSM, 0, 2, RAM_BASE + 0x100, 0xABC) == (0, 0)
    assert machine.call(HSM, 2, 2) == (0, HartState.START_PENDING)
    assert machine.call(HSM, 0, 2, RAM_BASE, 0) == (ALREADY_AVAILABLE, 0)
    hart = machine.harts[2]
    assert hart.wait(0) and hart.begin()
    machine.sbi.enter(hart)
    registers = machine.vcpus[2].registers
    assert (registers["pc"], registers["a0"], registers["a1"]) == (RAM_BASE + 0x100, 2, 0xABC)
    assert (registers["privilege"], registers["satp"], registers["mie"]) == (1, 0, 0)
    assert machine.vcpus[2].fences == [Fence(), Fence(instructions=True)]
    assert machine.call(HSM, 2, 2) == (0, HartState.STARTED)
    machine.call(HSM, 1, hart=2)
    assert machine.call(HSM, 2, 2) == (0, HartState.STOPPED)


def test_hart_start_and_status_errors(machine: Machine) -> None:
    assert machine.call(HSM, 0, 3, RAM_BASE) == (INVALID_PARAM, 0)
    assert machine.call(HSM, 0, 2, 0x5000_0000) == (INVALID_ADDRESS, 0)
    assert machine.call(HSM, 0, 2, RAM_BASE + 1) == (INVALID_ADDRESS, 0)
    assert machine.call(HSM, 0, 1, RAM_BASE) == (ALREADY_AVAILABLE, 0)
    assert machine.call(HSM, 2, ONES) == (INVALID_PARAM, 0)


def test_suspend(machine: Machine) -> None:
    assert machine.call(HSM, 3, 0) == (0, 0)
    assert machine.call(HSM, 3, 0x8000_0000) == (NOT_SUPPORTED, 0)
    assert machine.call(HSM, 3, 1) == (INVALID_PARAM, 0)


def test_reset(machine: Machine) -> None:
    for kind, reason in ((0, 0), (0, 1), (1, 0), (2, 0)):
        machine.call(SRST, 0, kind, reason)
    assert machine.events == [
        (SystemEvent.POWER_OFF, 0),
        (SystemEvent.FAIL, 1),
        (SystemEvent.RESET, 0),
        (SystemEvent.RESET, 0),
    ]
    assert machine.call(SRST, 0, 3, 0) == machine.call(SRST, 0, 0, 2) == (INVALID_PARAM, 0)


def test_debug_console(machine: Machine) -> None:
    machine.ram.view[16:21] = b"Hello"
    assert machine.call(DBCN, 0, 5, RAM_BASE + 16, 0) == (0, 5)
    assert machine.call(DBCN, 2, 0x121) == (0, 0)
    assert bytes(machine.printed) == b"Hello!"
    machine.typed += b"input"
    assert machine.call(DBCN, 1, 3, RAM_BASE, 0) == (0, 3)
    assert machine.call(DBCN, 1, 30, RAM_BASE + 3, 0) == (0, 2)
    assert machine.call(DBCN, 1, 30, RAM_BASE, 0) == (0, 0)
    assert bytes(machine.ram.view[:5]) == b"input"


@pytest.mark.parametrize(
    ("size", "low", "high"),
    [
        (1, 0x100, 0),
        (RAM_BYTES + 1, RAM_BASE, 0),
        (2, RAM_BASE + RAM_BYTES - 1, 0),
        (ONES, RAM_BASE, 0),
        (1, RAM_BASE, 1),
        (ONES, ONES, ONES),
    ],
)
def test_debug_console_outside_of_memory(machine: Machine, size: int, low: int, high: int) -> None:
    assert machine.call(DBCN, 0, size, low, high) == (INVALID_PARAM, 0)
    assert machine.call(DBCN, 1, size, low, high) == (INVALID_PARAM, 0)


def test_debug_console_does_not_write_rom(machine: Machine) -> None:
    machine.typed += b"x"
    assert machine.call(DBCN, 0, 1, ROM_BASE, 0) == (0, 1)
    assert machine.call(DBCN, 1, 1, ROM_BASE, 0) == (INVALID_PARAM, 0)


def test_no_performance_counters(machine: Machine) -> None:
    assert machine.call(PMU, 0) == (0, 0)
    assert machine.call(PMU, 1, 0) == (INVALID_PARAM, 0)
    assert machine.call(PMU, 2) == (NOT_SUPPORTED, 0)


def test_legacy_calls(machine: Machine) -> None:
    for byte in b"ok":
        assert machine.call(1, 0, byte) == (0, 0)
    assert bytes(machine.printed) == b"ok"
    machine.typed += b"z"
    assert machine.call(2, 0)[0] == ord("z")
    assert machine.call(2, 0)[0] == -1
    machine.call(0, 0, 99)
    assert machine.vcpus[0].registers["stimecmp"] == 99
    machine.ram.view[:8] = (2).to_bytes(8, "little")
    machine.call(4, 0, RAM_BASE)
    assert [vcpu.lines.get(1) for vcpu in machine.vcpus] == [None, True, None]
    machine.call(3, 0, hart=1)
    assert machine.vcpus[1].lines[1] is False
    machine.call(5, 0, 0)
    machine.call(6, 0, RAM_BASE, 0x1000, 0x2000)
    machine.call(7, 0, RAM_BASE, 0x1000, 0x2000, 3)
    assert machine.vcpus[0].fences == [Fence(instructions=True)]
    assert machine.vcpus[1].fences == [
        Fence(instructions=True),
        Fence(start=0x1000, size=0x2000),
        Fence(start=0x1000, size=0x2000, asid=3),
    ]
    machine.call(8, 0)
    assert machine.events == [(SystemEvent.POWER_OFF, 0)]


def test_the_legacy_mask_is_read_where_the_hart_sees_it(machine: Machine) -> None:
    machine.ram.view[0x1000 - 4 : 0x1000 + 4] = (2).to_bytes(8, "little")
    machine.vcpus[0].page_offset = RAM_BASE - 0x4000_0000
    assert machine.call(4, 0, 0x4000_0000 + 0x1000 - 4)[0] == 0  # across two pages
    assert [vcpu.lines.get(1) for vcpu in machine.vcpus] == [None, True, None]
    machine.vcpus[0].page_offset = 0
    assert machine.call(4, 0, 0x5000_0000)[0] == INVALID_PARAM  # nothing is there
    assert [vcpu.lines.get(1) for vcpu in machine.vcpus] == [None, True, None]


def test_legacy_calls_leave_a1_alone(machine: Machine) -> None:
    assert machine.call(1, 0, 65, 0x55) == (0, 0x55)


VALUES = st.one_of(
    st.integers(0, 2**64 - 1),
    st.sampled_from([0, 1, 2, RAM_BASE, RAM_BASE + RAM_BYTES - 1, ROM_BASE, ONES, ONES >> 1]),
)


@given(
    st.sampled_from([0, 1, 2, 4, 5, 6, 7, 8, BASE, TIME, IPI, RFENCE, HSM, SRST, PMU, DBCN]),
    st.one_of(st.integers(0, 6), VALUES),
    st.lists(VALUES, min_size=6, max_size=6),
)
def test_hostile_guest(extension: int, function: int, arguments: list[int]) -> None:
    machine = Machine()
    machine.call(extension, function, *arguments)
    assert all(0 <= value <= ONES for value in machine.vcpus[0].registers.values())
