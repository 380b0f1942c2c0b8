"""Writes that are events of a descriptor instead of exits."""

from __future__ import annotations

import os

import pytest

from tandemu.accel import MmioWrite
from tests.jit.small_machine import END, Code, machine

BELL = 0x2000_0000


@pytest.fixture
def event():  # type: ignore[no-untyped-def]
    descriptor = os.eventfd(0, os.EFD_NONBLOCK)
    yield descriptor
    os.close(descriptor)


def count(descriptor: int) -> int:
    try:
        return os.eventfd_read(descriptor)
    except BlockingIOError:
        return 0


def ring(code: Code, address: int) -> Code:
    """Store 2 bytes at *address*."""
    page = address + 0x800 & -4096
    return code("lui", rd=5, imm=page)("sh", rs1=5, rs2=6, imm=address - page)


def test_a_doorbell_rings_without_an_exit(event: int) -> None:
    m = machine()
    assert m.vm.connect_doorbell(BELL, event)
    code = Code()
    for _ in range(3):
        ring(code, BELL)
    m.load(ring(code, BELL + 4)("jal", rd=0, imm=0))
    exit = m.vcpu.run()
    assert exit == MmioWrite(BELL + 4, 2, 0), "its neighbour is none"
    assert count(event) == 3
    assert m.vcpu.cpu.exits[2] == 1
    m.vm.disconnect_doorbell(BELL, event)


def test_what_is_disconnected_is_an_exit_again(event: int) -> None:
    m = machine()
    m.vm.connect_doorbell(BELL, event)
    m.vm.connect_doorbell(BELL + 4, event)
    m.vm.disconnect_doorbell(BELL, event)
    m.load(ring(ring(Code(), BELL + 4), BELL)("jal", rd=0, imm=0))
    assert m.vcpu.run() == MmioWrite(BELL, 2, 0)
    assert count(event) == 1
    m.vm.disconnect_doorbell(BELL + 4, event)


def test_a_doorbell_that_has_rung_too_often_does_not_stop_the_guest(event: int) -> None:
    os.eventfd_write(event, (1 << 64) - 2)
    m = machine()
    m.vm.connect_doorbell(BELL, event)
    m.load(ring(ring(Code(), BELL), END)("jal", rd=0, imm=0))
    assert m.vcpu.run() == MmioWrite(END, 2, 0)
    assert count(event) == (1 << 64) - 2
    m.vm.disconnect_doorbell(BELL, event)


def test_there_is_room_for_so_many(event: int) -> None:
    m = machine()
    placed = 0
    while m.vm.connect_doorbell(BELL + 4 * placed, event):
        placed += 1
    assert placed == 512
    m.vm.disconnect_doorbell(BELL + 4 * 77, event)
    assert m.vm.connect_doorbell(BELL - 4, event)
    m.load(ring(ring(Code(), BELL - 4), END))
    assert m.vcpu.run() == MmioWrite(END, 2, 0)
    assert count(event) == 1
    for number in range(-1, placed):
        m.vm.disconnect_doorbell(BELL + 4 * number, event)
