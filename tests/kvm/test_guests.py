"""Small guests on KVM, in real, protected and long mode: what the processor protocol promises."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from tandemu.accel import (
    Exit,
    Interrupted,
    MmioRead,
    MmioWrite,
    PortRead,
    PortWrite,
    Shutdown,
    Stopped,
)
from tandemu.kvm import KvmError, KvmVcpu, kick
from tandemu.kvm.device import VFIO, KvmDevice
from tandemu.memory import MapError, Ram, RamRegion
from tests.kvm.guests import CODE, IDT, Guest, guest, needs_kvm, run

pytestmark = [pytest.mark.kvm, needs_kvm]

HOLE = 0xD000_0000
PATIENCE_S = 120
"""Of the test bed on a loaded host; nothing takes so long otherwise."""
ARITHMETIC = "b807000000bb0500000001d8f7e3e710f4"
"""mov eax, 7; mov ebx, 5; add eax, ebx; mul ebx; out 0x10, eax; hlt"""


def test_real_mode_runs_and_writes_a_port() -> None:
    with guest() as machine:
        vcpu = machine.real("b80700bb050001d8f7e3e710")
        assert run(vcpu) == PortWrite(0x10, 2, 60)


def test_protected_mode_runs_and_writes_a_port() -> None:
    with guest() as machine:
        assert run(machine.protected(ARITHMETIC)) == PortWrite(0x10, 4, 60)


def test_long_mode_runs_and_writes_a_port() -> None:
    with guest() as machine:
        # mov rax, 0x123456789abcdef0; shr rax, 32; out 0x10, eax
        vcpu = machine.long("48b8f0debc9a7856341248c1e820e710")
        assert run(vcpu) == PortWrite(0x10, 4, 0x12345678)
        assert vcpu.get("efer") & 0x400, "long mode is active"
        assert vcpu.get("cs.l") == 1


@pytest.mark.parametrize(
    ("code", "size", "value"),
    [("e472e610", 1, 0xA5), ("66e57266e710", 2, 0xBEEF), ("e572e710", 4, 0xDEADBEEF)],
)
def test_a_port_is_read_with_each_size(code: str, size: int, value: int) -> None:
    with guest() as machine:
        vcpu = machine.protected(code)  # in a, 0x72; out 0x10, a
        assert run(vcpu) == PortRead(0x72, size)
        vcpu.complete(value)
        assert run(vcpu) == PortWrite(0x10, size, value)


def test_nothing_at_a_port_reads_as_ones() -> None:
    with guest() as machine:
        vcpu = machine.protected("e572e710")
        assert run(vcpu) == PortRead(0x72, 4)
        vcpu.complete(None)
        assert run(vcpu) == PortWrite(0x10, 4, 0xFFFF_FFFF)


def test_a_string_instruction_comes_element_by_element() -> None:
    with guest() as machine:
        # mov esi, 0x2000; mov ecx, 5; mov edx, 0x3f8; cld; rep outsb; out 0x10, al
        vcpu = machine.protected("be00200000b905000000baf8030000fcf36ee610")
        machine.put(0x2000, b"hello")
        seen = bytearray()
        while (exit := run(vcpu)) != PortWrite(0x10, 1, vcpu.get("rax") & 0xFF):
            assert isinstance(exit, PortWrite) and exit.port == 0x3F8
            seen.append(exit.value)
        assert seen == b"hello"


def test_a_string_is_read_element_by_element() -> None:
    with guest() as machine:
        # mov edi, 0x2000; mov ecx, 5; mov edx, 0x3f8; cld; rep insb; out 0x10, al
        vcpu = machine.protected("bf00200000b905000000baf8030000fcf36ce610")
        text = iter(b"hello")
        while isinstance(exit := run(vcpu), PortRead):
            vcpu.complete(next(text))
        assert exit == PortWrite(0x10, 1, 0)
        assert bytes(machine.ram.view[0x2000:0x2005]) == b"hello"


@pytest.mark.parametrize(
    ("load", "store", "size", "value"),
    [
        ("8a03", "8803", 1, 0x7F),
        ("668b03", "668903", 2, 0x8001),
        ("8b03", "8903", 4, 0x89ABCDEF),
    ],
)
def test_memory_that_is_no_ram_is_an_exit(load: str, store: str, size: int, value: int) -> None:
    with guest() as machine:
        # mov ebx, HOLE; mov a, [ebx]; mov [ebx], a
        vcpu = machine.protected("bb000000d0" + load + store)
        assert run(vcpu) == MmioRead(HOLE, size)
        vcpu.complete(value)
        assert run(vcpu) == MmioWrite(HOLE, size, value)


def test_a_long_mode_access_has_eight_bytes() -> None:
    with guest() as machine:
        # mov ebx, 0x20000000; mov rax, [rbx]; mov [rbx+8], rax
        vcpu = machine.long("bb00000020488b0348894308")
        assert run(vcpu) == MmioRead(0x2000_0000, 8)
        vcpu.complete(0x0123_4567_89AB_CDEF)
        assert run(vcpu) == MmioWrite(0x2000_0008, 8, 0x0123_4567_89AB_CDEF)


def test_registers_read_after_an_exit_are_those_behind_the_instruction() -> None:
    with guest() as machine:
        vcpu = machine.protected("e57240e710")  # in eax, 0x72; inc eax; out 0x10, eax
        assert run(vcpu) == PortRead(0x72, 4)
        vcpu.complete(41)
        assert vcpu.get("rax") == 41
        assert vcpu.get("rip") == CODE + 2
        vcpu.set("rax", 99)
        assert run(vcpu) == PortWrite(0x10, 4, 100)


def test_read_only_memory_is_read_directly_and_written_by_an_exit() -> None:
    with guest() as machine:
        rom = Ram(4096)
        rom.view[:4] = b"\x44\x33\x22\x11"
        machine.vm.set_memory_slot(RamRegion(HOLE, 4096, rom, readonly=True))
        vcpu = machine.protected("bb000000d08b03e7108903")
        assert run(vcpu) == PortWrite(0x10, 4, 0x1122_3344)
        assert run(vcpu) == MmioWrite(HOLE, 4, 0x1122_3344)
        machine.vm.remove_memory_slot(HOLE)
        vcpu.set("rip", CODE)
        assert run(vcpu) == MmioRead(HOLE, 4)


def test_single_steps() -> None:
    with guest() as machine:
        vcpu = machine.protected("4040e71040e710")
        vcpu.set("rax", 0)
        assert vcpu.step() == Stopped(CODE + 1)
        assert vcpu.get("rax") == 1
        assert vcpu.step() == Stopped(CODE + 2)
        assert vcpu.step() == PortWrite(0x10, 4, 2)
        assert vcpu.step() == Stopped(CODE + 5)
        assert run(vcpu) == PortWrite(0x10, 4, 3)


ENABLE_APIC = "bbf000e0fec703ff010000"
"""mov ebx, 0xfee000f0; mov dword [rbx], 0x1ff"""
READY = PortWrite(0x12, 1, 1)
WAIT = "b001e612fbf4b055e610"
"""mov al, 1; out 0x12, al; sti; hlt; mov al, 0x55; out 0x10, al: an interrupt before the first
`out` may find the controllers not ready, and is lost as on any hardware."""
HANDLER = "b077e61148cf"
"""mov al, 0x77; out 0x11, al; iretq"""


def handle_interrupt(machine: Guest, vector: int) -> None:
    """Let *vector* go to `HANDLER`, in long mode."""
    handler = CODE + 0x100
    machine.put(handler, bytes.fromhex(HANDLER))
    gate = handler.to_bytes(2, "little") + bytes((8, 0, 0, 0x8E)) + bytes(10)
    machine.put(IDT + 16 * vector, gate)
    machine.vcpu.set_many({"idt.base": IDT, "idt.limit": 0xFFF})


def run_interrupted(vcpu: KvmVcpu, send: Callable[[], object]) -> Exit:
    """Run a guest with `WAIT` until it is ready, and on; *send* is called while it halts."""
    assert run(vcpu) == READY
    timer = threading.Timer(0.1, send)
    timer.start()
    try:
        return run(vcpu)
    finally:
        timer.join()


def test_an_interrupt_ends_a_halt() -> None:
    with guest() as machine:
        vcpu = machine.long(ENABLE_APIC + WAIT)
        handle_interrupt(machine, 0x40)
        sent = run_interrupted(vcpu, lambda: vcpu.set_interrupt(0x40, True))
        assert sent == PortWrite(0x11, 1, 0x77)
        assert run(vcpu) == PortWrite(0x10, 1, 0x55)


ROUTE_INPUT_17 = "bb0000c0fec70332000000c7431040000000c70333000000c7431000000000"
"""The I/O APIC's registers 0x32 and 0x33: input 17, edge, to vector 0x40 of processor 0."""


def test_an_event_descriptor_raises_an_interrupt() -> None:
    with guest() as machine:
        vcpu = machine.long(ENABLE_APIC + ROUTE_INPUT_17 + WAIT)
        handle_interrupt(machine, 0x40)
        event = os.eventfd(0)
        machine.vm.connect_interrupt(event, 17)
        sent = run_interrupted(vcpu, lambda: os.eventfd_write(event, 1))
        assert sent == PortWrite(0x11, 1, 0x77)
        assert run(vcpu) == PortWrite(0x10, 1, 0x55)
        os.close(event)


def test_an_interrupt_line_raises_an_interrupt() -> None:
    with guest() as machine:
        vcpu = machine.long(ENABLE_APIC + ROUTE_INPUT_17 + WAIT)
        handle_interrupt(machine, 0x40)
        sent = run_interrupted(vcpu, lambda: machine.vm.set_interrupt_line(17, True))
        assert sent == PortWrite(0x11, 1, 0x77)


def test_the_pcs_timer_ticks_where_it_was_asked_for() -> None:
    def out(port: int, value: int) -> str:
        return f"b0{value:02x}e6{port:02x}"  # mov al, value; out port, al

    with guest(timer=True) as machine:
        # The PIC: vectors from 8 on, all but the timer masked. The timer: 291 Hz, for ever.
        pic = out(0x20, 0x11) + out(0x21, 8) + out(0x21, 4) + out(0x21, 1) + out(0x21, 0xFE)
        timer = out(0x43, 0x34) + out(0x40, 0) + out(0x40, 0x10)
        vcpu = machine.real(pic + timer + "fbf4ebfc")  # sti; again: hlt; jmp again
        vcpu.set("ss", 0)
        machine.put(8 * 4, (0x1800).to_bytes(4, "little"))
        machine.put(0x1800, bytes.fromhex(out(0x11, 0x77) + out(0x20, 0x20) + "cf"))
        for _ in range(3):
            assert run(vcpu) == PortWrite(0x11, 1, 0x77)


def test_a_write_signals_an_event_descriptor_instead_of_an_exit() -> None:
    with guest() as machine:
        # mov al, 3; out 0x30, al; mov ebx, HOLE; mov [ebx], eax; out 0x10, al
        vcpu = machine.protected("b803000000e630bb000000d08903e610")
        port, memory = os.eventfd(0, os.EFD_NONBLOCK), os.eventfd(0, os.EFD_NONBLOCK)
        machine.vm.connect_write(port, 0x30, 1, value=3, port=True)
        machine.vm.connect_write(memory, HOLE, 4)
        assert run(vcpu) == PortWrite(0x10, 1, 3)
        assert os.eventfd_read(port) == 1
        assert os.eventfd_read(memory) == 1
        machine.vm.connect_write(port, 0x30, 1, value=3, port=True, connect=False)
        vcpu.set("rip", CODE)
        assert run(vcpu) == PortWrite(0x30, 1, 3)
        for event in (port, memory):
            os.close(event)


def test_a_kick_ends_an_endless_loop() -> None:
    with guest() as machine:
        vcpu = machine.protected("ebfe")
        timer = threading.Timer(0.1, vcpu.kick)
        timer.start()
        assert vcpu.run() == Interrupted()
        timer.join()
        assert vcpu.get("rip") == CODE


def test_a_kick_ends_a_halt() -> None:
    with guest() as machine:
        vcpu = machine.protected("faf4")
        timer = threading.Timer(0.1, vcpu.kick)
        timer.start()
        assert vcpu.run() == Interrupted()
        timer.join()


def test_a_kick_before_running_is_not_lost_and_counts_once() -> None:
    with guest() as machine:
        vcpu = machine.protected("e610e611")
        vcpu.kick()
        assert vcpu.run() == Interrupted()
        assert vcpu.run() == PortWrite(0x10, 1, 0)
        vcpu.kick()
        assert vcpu.run() == Interrupted()
        assert vcpu.run() == PortWrite(0x11, 1, 0)


def test_kicks_from_another_thread_lose_no_exit() -> None:
    with guest() as machine:
        # mov ecx, 0; loop: mov eax, ecx; out 0x10, eax; inc ecx; jmp loop
        vcpu = machine.protected("b90000000089c8e71041ebf9")
        # A kick for each exit: more of them, on a slow host, would let the guest do nothing.
        exits, kicks = threading.Semaphore(0), 500

        def pester() -> None:
            for _ in range(kicks):
                exits.acquire()
                vcpu.kick()

        pest = threading.Thread(target=pester)
        pest.start()
        try:
            for number in range(kicks):
                exits.release()
                assert run(vcpu) == PortWrite(0x10, 4, number)
        finally:
            exits.release(kicks)
            pest.join()


BLOCKED_SIGNALS = [sys.executable, "-c", "import signal; print(signal.pthread_sigmask(0, ()))"]


def test_a_program_started_from_a_vcpus_thread_inherits_no_blocked_signal() -> None:
    before = subprocess.check_output(BLOCKED_SIGNALS)
    with guest() as machine:
        vcpu = machine.protected("e610ebfe")
        assert run(vcpu) == PortWrite(0x10, 1, 0)
        timer = threading.Timer(0.1, vcpu.kick)
        timer.start()
        assert vcpu.run() == Interrupted()
        timer.join()
        assert subprocess.check_output(BLOCKED_SIGNALS) == before


def test_a_thread_that_inherited_the_signal_blocked_is_kicked_all_the_same() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (kick.SIGNAL,))
    try:
        with guest() as machine:
            vcpu = machine.protected("ebfe")
            timer = threading.Timer(0.1, vcpu.kick)
            timer.start()
            assert vcpu.run() == Interrupted()
            timer.join()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_a_handler_of_the_application_stays() -> None:
    taken: list[int] = []
    before = signal.signal(kick.SIGNAL, lambda number, _: taken.append(number))
    try:
        with guest() as machine:
            vcpu = machine.protected("ebfe")
            timer = threading.Timer(0.1, vcpu.kick)
            timer.start()
            assert vcpu.run() == Interrupted()
            timer.join()
        assert taken == [kick.SIGNAL]
    finally:
        signal.signal(kick.SIGNAL, before if before is not None else signal.SIG_DFL)


def test_a_vcpu_may_change_its_thread() -> None:
    with guest() as machine:
        vcpu = machine.protected("e610ebfe")
        assert run(vcpu) == PortWrite(0x10, 1, 0)
        exits: list[object] = []
        thread = threading.Thread(target=lambda: exits.append(vcpu.run()))
        thread.start()
        time.sleep(0.05)
        vcpu.kick()
        thread.join(PATIENCE_S)
        assert exits == [Interrupted()]


def test_a_triple_fault_is_told_with_the_place() -> None:
    with guest() as machine:
        vcpu = machine.protected("0f0b")  # ud2 without an interrupt table
        vcpu.set("idt.limit", 0)
        exit = run(vcpu)
        assert isinstance(exit, Shutdown)
        assert "triple fault" in exit.reason and "rip" in exit.reason


def test_written_pages_are_logged_and_the_log_is_cleared() -> None:
    with guest() as machine:
        # mov [0x20000], eax; mov [0x50000], eax; out 0x10, al
        vcpu = machine.protected("a300000200a300000500e610")
        log = machine.vm.memory.open_dirty_log()
        assert run(vcpu) == PortWrite(0x10, 1, 0)
        bits = log.take(0)
        assert len(bits) == 32
        dirty = {number for number in range(256) if bits[number // 8] >> number % 8 & 1}
        assert {0x20, 0x50} <= dirty
        assert 0x30 not in dirty
        assert not {0x20, 0x50} & {
            number for number, _ in enumerate(log.take(0)) if bits[number // 8] == 0xFF
        }
        log.close()
        with pytest.raises(MapError, match="closed"):
            log.take(0)


def test_a_second_processor_waits_until_it_is_started() -> None:
    with guest(cpus=2) as machine:
        # INIT and start-up to processor 1 at page 3, by the first one's APIC.
        machine.protected(
            "bbf000e0fe" "c703ff010000"
            "bb1003e0fe" "c70300000001"  # ICR high: processor 1
            "bb0003e0fe" "c70300450000" "c70303460000"  # INIT, start-up
            "ebfe"
        )  # fmt: skip
        machine.put(0x3000, bytes.fromhex("b84200e712ebfe"))  # mov ax; out 0x12, ax
        first = threading.Thread(target=machine.vcpus[0].run)
        first.start()
        exit = run(machine.vcpus[1])
        machine.vcpus[0].kick()
        first.join(PATIENCE_S)
        assert exit == PortWrite(0x12, 2, 0x42)


def test_the_clock_goes_on_and_can_be_set() -> None:
    with guest() as machine:
        first = machine.vm.time()
        assert machine.vm.time() >= first
        machine.vm.set_time(10**12)
        assert 10**12 <= machine.vm.time() < 10**12 + 10**10
        assert machine.vcpu.get("clock") >= 10**12


def test_linear_addresses_translate_by_the_guests_tables() -> None:
    with guest() as machine:
        vcpu = machine.long("e610")
        assert run(vcpu) == PortWrite(0x10, 1, 0)
        assert vcpu.translate(0x1234_5678) == 0x1234_5678
        assert vcpu.translate(1 << 40) is None


def test_what_a_vm_cannot_have_is_said_with_the_mend() -> None:
    with guest() as machine:
        with pytest.raises(KvmError, match="whole pages"):
            machine.vm.set_memory_slot(RamRegion(0x10_0000, 100, machine.ram))
        with pytest.raises(KvmError, match="at most"):
            machine.vm.create_vcpu(100_000)
        with pytest.raises(KvmError, match="16 to 255"):
            machine.vcpu.set_interrupt(5, True)
        with pytest.raises(KvmError, match="overlaps"):
            machine.vm.set_memory_slot(RamRegion(0x1000, 4096, machine.ram))


def test_an_in_kernel_device_is_made_asked_and_refused() -> None:
    with guest() as machine:
        with pytest.raises(KvmError, match="CREATE_DEVICE"):
            KvmDevice(machine.vm.file, 999)
        try:
            device = KvmDevice(machine.vm.file, VFIO)
        except KvmError:
            pytest.skip("this kernel has no VFIO device")
        assert device.has(1, 1), "a file can be added"
        assert not device.has(77, 1)
        with pytest.raises(KvmError, match="SET_DEVICE_ATTR"):
            device.write(77, 1, 5)
        with pytest.raises(KvmError, match="GET_DEVICE_ATTR"):
            device.read(1, 1)
        device.close()
