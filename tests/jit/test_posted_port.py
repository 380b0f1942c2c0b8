"""Writes to a busy port that are kept and taken together; reads of its status without exits."""

from __future__ import annotations

import threading

import pytest

from tandemu.accel import AccelError, MmioRead, MmioWrite, busy_port
from tests.jit.small_machine import END, Code, SmallMachine

PORT, STATUS = 0x2000_0000, 0x2000_0005
FOREVER_S = 3600.0


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    monkeypatch.setattr(busy_port, "BUSY_S", FOREVER_S)
    monkeypatch.setattr(busy_port, "_TICK_S", FOREVER_S)  # only exits have it taken
    return []


def printing(count: int, looks: int = 1) -> Code:
    """Look at the status *looks* times and write a byte, *count* times: 0, 1, 2 …"""
    code = Code().li(5, PORT).li(6, count).li(7, 0).label("again")
    for _ in range(looks):
        code("lbu", rd=8, rs1=5, imm=5)
    return (
        code("sb", rs1=5, rs2=7, imm=0)("addi", rd=7, rs1=7, imm=1)
        ("bne", to="again", rs1=7, rs2=6)
        .finish(8)
    )  # fmt: skip


def serve(m: SmallMachine, taken: list[bytes], hart: int = 0) -> tuple[int, int]:
    """Run to the end; how many exits reads and writes were."""
    reads = writes = 0
    while True:
        leaving = m.harts[hart].run()
        if isinstance(leaving, MmioRead):
            assert leaving.address == STATUS
            m.harts[hart].complete(0x60)
            reads += 1
        else:
            assert isinstance(leaving, MmioWrite)
            if leaving.address == END:
                assert leaving.value == 0x60
                return reads, writes
            assert leaving.address == PORT
            taken.append(bytes([leaving.value]))
            m.harts[hart].complete(0)
            writes += 1


def all_bytes(count: int) -> bytes:
    return bytes(number & 0xFF for number in range(count))


def test_writes_come_in_order_and_nearly_without_exits(taken: list[bytes]) -> None:
    m = SmallMachine().reset()
    m.vm.post_writes(PORT, STATUS, taken.append)(0x60)
    count = 1500
    reads, writes = serve(m.load(printing(count)), taken)
    assert b"".join(taken) == all_bytes(count)
    assert reads <= writes == busy_port.BUSY_WRITES
    m.vm.close()


def test_what_is_full_is_emptied_in_order(taken: list[bytes]) -> None:
    m = SmallMachine().reset()
    m.vm.post_writes(PORT, STATUS, taken.append)(0x60)
    count = 2000
    code = printing(count)
    # Once more and twice more the same: 6,000 in all, more than are kept.
    body = code.build()
    m.write(code.base, body)
    for _ in range(3):
        m.vcpu.cpu.pc = code.base
        serve(m, taken)
    assert b"".join(taken) == all_bytes(count) * 3
    m.vm.close()


def test_a_status_that_must_be_seen_is_an_exit(taken: list[bytes]) -> None:
    m = SmallMachine().reset()
    show = m.vm.post_writes(PORT, STATUS, taken.append)
    reads, _ = serve(m.load(printing(1000)), taken)
    assert reads == 1000
    show(0x60)
    m.vcpu.cpu.pc = printing(1).base
    reads, _ = serve(m, taken)
    assert reads == 0
    show(None)
    m.vcpu.cpu.pc = printing(1).base
    reads, _ = serve(m, taken)
    assert reads == 1000
    assert b"".join(taken) == all_bytes(1000) * 3
    m.vm.close()


def test_a_guest_that_only_looks_is_seen(taken: list[bytes]) -> None:
    m = SmallMachine().reset()
    m.vm.post_writes(PORT, STATUS, taken.append)(0x60)
    reads, writes = serve(m.load(printing(200, looks=20)), taken)
    native = 200 - writes
    assert reads == writes * 20 + native * 12, "eight in a row are answered"
    m.vm.close()


def test_harts_may_write_at_once(taken: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    m = SmallMachine(harts=4).reset()
    m.vm.post_writes(PORT, STATUS, taken.append)(0x60)
    m.load(printing(1900))
    monkeypatch.setattr(busy_port, "_TICK_S", 0.0001)
    threads = [threading.Thread(target=serve, args=(m, taken, hart)) for hart in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    m.vm.close()
    counts = [b"".join(taken).count(value) for value in range(256)]
    assert counts == [4 * all_bytes(1900).count(value) for value in range(256)]


def test_there_is_one_such_port() -> None:
    m = SmallMachine()
    m.vm.post_writes(PORT, STATUS, lambda data: None)
    with pytest.raises(AccelError, match="0x20000000 are posted already"):
        m.vm.post_writes(PORT + 1, STATUS, lambda data: None)
    m.vm.close()
