"""What `accel.Vm` and `accel.Vcpu` promise, asked of every engine by one and the same tests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from importlib import import_module

import pytest

from tandemu.accel import AccelError, Interrupted, MmioRead, MmioWrite, Stopped
from tandemu.kvm.probe import find_problem
from tandemu.memory import MapError, Ram, RamRegion
from tests.accel.guests import FAR, HOLE, PAGE, RISCV, X86, Architecture, Guest, guest

PATIENCE_S = 120
_NO_KVM = find_problem()
KVM = [pytest.mark.kvm, pytest.mark.skipif(bool(_NO_KVM), reason=_NO_KVM or "KVM works")]

Make = Callable[[str], AbstractContextManager[Guest]]


@pytest.fixture(params=[pytest.param(RISCV, id="jit"), pytest.param(X86, id="kvm", marks=KVM)])
def architecture(request: pytest.FixtureRequest) -> Architecture:
    return request.param


@pytest.fixture
def make(architecture: Architecture) -> Make:
    return partial(guest, architecture, import_module(architecture.engine))


def pages(bits: bytes) -> set[int]:
    """The numbers of the bits that are set."""
    return {number for number in range(8 * len(bits)) if bits[number // 8] >> number % 8 & 1}


def later(action: Callable[[], None]) -> threading.Timer:
    timer = threading.Timer(0.1, action)
    timer.start()
    return timer


def test_memory_that_is_no_ram_is_an_exit(make: Make, architecture: Architecture) -> None:
    with make(architecture.echo) as machine:
        for value in (0, 41, 0xFFFF_FFFE):
            assert machine.run() == MmioRead(HOLE, 4)
            machine.vcpu.complete(value)
            exit = machine.run()
            assert isinstance(exit, MmioWrite)
            assert (exit.address, exit.size) == (HOLE + 8, 4)
            assert exit.value & 0xFFFF_FFFF == value + 1
            machine.vcpu.complete(0)


def test_an_answer_is_in_the_register_before_the_guest_goes_on(
    make: Make, architecture: Architecture
) -> None:
    with make(architecture.echo) as machine:
        assert machine.run() == MmioRead(HOLE, 4)
        machine.vcpu.complete(6)
        assert machine.run() == MmioWrite(HOLE + 8, 4, 7)
        assert machine.vcpu.get(architecture.data) == 7
        machine.vcpu.set(architecture.data, 99)
        machine.vcpu.complete(0)
        assert machine.run() == MmioRead(HOLE, 4)


def test_writes_come_in_order_and_once(make: Make, architecture: Architecture) -> None:
    with make(architecture.count) as machine:
        for number in range(300):
            assert machine.run() == MmioWrite(HOLE, 4, number)
            machine.vcpu.complete(0)


def test_a_kick_ends_an_endless_loop(make: Make, architecture: Architecture) -> None:
    with make(architecture.endless) as machine:
        timer = later(machine.vcpu.kick)
        assert machine.vcpu.run() == Interrupted()
        timer.join()
        assert machine.vcpu.get("pc") == machine.at


def test_a_kick_before_running_is_not_lost(make: Make, architecture: Architecture) -> None:
    with make(architecture.count) as machine:
        machine.vcpu.kick()
        assert machine.vcpu.run() == Interrupted()
        assert machine.run() == MmioWrite(HOLE, 4, 0)


def test_kicks_lose_no_exit(make: Make, architecture: Architecture) -> None:
    # A kick for each exit, from another thread: more would let a slow host do nothing else.
    exits, number_of_kicks = threading.Semaphore(0), 300
    with make(architecture.count) as machine:

        def pester() -> None:
            for _ in range(number_of_kicks):
                exits.acquire()
                machine.vcpu.kick()

        pest = threading.Thread(target=pester)
        pest.start()
        try:
            for number in range(number_of_kicks):
                exits.release()
                assert machine.run() == MmioWrite(HOLE, 4, number)
                machine.vcpu.complete(0)
        finally:
            exits.release(number_of_kicks)
            pest.join()


def test_a_vcpu_may_change_its_thread(make: Make, architecture: Architecture) -> None:
    with make(architecture.endless) as machine:
        timer = later(machine.vcpu.kick)
        assert machine.vcpu.run() == Interrupted()
        timer.join()
        exits: list[object] = []
        thread = threading.Thread(target=lambda: exits.append(machine.vcpu.run()))
        thread.start()
        time.sleep(0.05)
        machine.vcpu.kick()
        thread.join(PATIENCE_S)
        assert exits == [Interrupted()]


def test_single_steps(make: Make, architecture: Architecture) -> None:
    with make(architecture.steps) as machine:
        machine.vcpu.set(architecture.data, 5)
        for number in range(1, 4):
            where = machine.at + number * architecture.step_bytes
            assert machine.vcpu.step() == Stopped(where)
            assert machine.vcpu.get(architecture.data) == 5 + number
        timer = later(machine.vcpu.kick)
        assert machine.vcpu.run() == Interrupted()  # it runs freely again
        timer.join()


def test_slots_come_go_and_are_replaced(make: Make, architecture: Architecture) -> None:
    place = architecture.base + FAR
    with make(architecture.load_far) as machine:
        assert machine.run() == MmioRead(place, 4)
        machine.vcpu.complete(1)
        assert machine.run() == MmioWrite(HOLE, 4, 1)
        machine.vcpu.complete(0)
        first, second = Ram(PAGE), Ram(PAGE)
        first.view[0], second.view[0] = 2, 3
        for ram, value in ((first, 2), (second, 3), (first, 2)):
            machine.vm.set_memory_slot(RamRegion(place, PAGE, ram))
            assert machine.run() == MmioWrite(HOLE, 4, value)
            machine.vcpu.complete(0)
        machine.vm.remove_memory_slot(place)
        assert machine.run() == MmioRead(place, 4)


def test_read_only_memory_is_read_directly_and_written_by_an_exit(
    make: Make, architecture: Architecture
) -> None:
    place = architecture.base + FAR
    with make(architecture.store_far) as machine:
        rom = Ram(PAGE)
        machine.vm.set_memory_slot(RamRegion(place, PAGE, rom, readonly=True))
        assert machine.run() == MmioWrite(place, 4, 7)
        machine.vcpu.complete(0)
        assert machine.run() == MmioWrite(HOLE, 4, 7)
        assert rom.view[0] == 0
        machine.vcpu.complete(0)
        machine.vm.set_memory_slot(RamRegion(place, PAGE, rom))
        assert machine.run() == MmioWrite(HOLE, 4, 7)
        assert rom.view[0] == 7


def test_written_pages_are_logged_and_the_log_is_cleared(
    make: Make, architecture: Architecture
) -> None:
    with make(architecture.store_ram) as machine:
        log = machine.vm.memory.open_dirty_log()
        for _ in range(2):
            assert isinstance(machine.run(), MmioWrite)
            machine.vcpu.complete(0)
            dirty = pages(log.take(architecture.base))
            assert {0x20, 0x50} <= dirty
            assert 0x30 not in dirty
            assert 0x20 not in pages(log.take(architecture.base))
            machine.begin()


def test_dirty_logs_of_several_consumers_miss_nothing(
    make: Make, architecture: Architecture
) -> None:
    base = architecture.base
    with make(architecture.store_ram) as machine:
        memory = machine.vm.memory
        first, second = memory.open_dirty_log(), memory.open_dirty_log()

        def run_to_the_end() -> None:
            assert isinstance(machine.run(), MmioWrite)
            machine.vcpu.complete(0)
            machine.begin()

        run_to_the_end()
        assert {0x20, 0x50} <= pages(first.take(base))
        assert memory.write(base + 0x7_0FFE, b"four")  # what a device writes, over two pages
        assert pages(first.take(base)) & {0x20, 0x50, 0x70, 0x71} == {0x70, 0x71}
        run_to_the_end()
        assert pages(first.take(base)) & {0x20, 0x50, 0x70, 0x71} == {0x20, 0x50}
        assert {0x20, 0x50, 0x70, 0x71} <= pages(second.take(base))
        assert not pages(second.take(base)) & {0x20, 0x50, 0x70, 0x71}
        second.close()
        run_to_the_end()
        assert {0x20, 0x50} <= pages(first.take(base))
        with pytest.raises(MapError, match="closed"):
            second.take(base)
        first.close()
        run_to_the_end()
        with memory.open_dirty_log() as third:
            assert not pages(third.take(base)) & {0x20, 0x50}, "written before it was opened"
            run_to_the_end()
            assert {0x20, 0x50} <= pages(third.take(base))


def test_a_dirty_log_follows_memory_that_comes_and_goes(
    make: Make, architecture: Architecture
) -> None:
    place = architecture.base + FAR
    with make(architecture.store_far) as machine:
        log = machine.vm.memory.open_dirty_log()
        ram = Ram(PAGE)
        machine.vm.set_memory_slot(RamRegion(place, PAGE, ram))
        assert machine.run() == MmioWrite(HOLE, 4, 7)
        machine.vm.remove_memory_slot(place)
        with pytest.raises(MapError, match="no memory slot"):
            log.take(place)
        machine.vm.set_memory_slot(RamRegion(place, PAGE, ram))
        assert pages(log.take(place)) == {0}, "written while it was there before"
        assert not pages(log.take(place))


def test_memory_that_a_device_lends_is_the_guests(make: Make, architecture: Architecture) -> None:
    with make(architecture.store_ram) as machine:
        memory, place = machine.vm.memory, architecture.base + 0x20000
        machine.vcpu.set(architecture.data, 0x1234)
        assert isinstance(machine.run(), MmioWrite)
        assert memory.read(place, 4) == (0x1234).to_bytes(4, "little")
        views = memory.lend(place, 4)
        assert views is not None and bytes(views[0]) == (0x1234).to_bytes(4, "little")


def test_the_clock_goes_on(make: Make, architecture: Architecture) -> None:
    with make(architecture.endless) as machine:
        first = machine.vm.time()
        time.sleep(0.01)
        assert machine.vm.time() > first


def test_what_an_engine_cannot_do_is_its_error(make: Make, architecture: Architecture) -> None:
    with make(architecture.endless) as machine:
        with pytest.raises(AccelError, match="whole pages"):
            machine.vm.set_memory_slot(RamRegion(HOLE, 100, machine.ram))
        with pytest.raises(MapError, match="no memory slot"):
            machine.vm.memory.open_dirty_log().take(HOLE)
        with pytest.raises(AccelError, match="no register"):
            machine.vcpu.get("nonsense")
        with pytest.raises(AccelError, match="no register"):
            machine.vcpu.set("nonsense", 1)
