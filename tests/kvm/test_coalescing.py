"""Writes to the serial line that the kernel keeps for a while: nobody can tell, but by the time."""

from __future__ import annotations

import mmap
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tandemu.accel import Exit, PortRead, PortWrite, busy_port
from tandemu.kvm import KvmError, KvmVcpu, System
from tandemu.kvm.abi import Capability
from tandemu.machine import Machine
from tests.kvm.guests import Guest, guest, needs_kvm, run
from tests.kvm.kernels import FOREVER, POWER_OFF, bzimage, port, say

pytestmark = [pytest.mark.kvm, needs_kvm]

PATIENCE_S = 120
SERIAL, LINE_CONTROL = 0x3F8, 0x3FB
MANY = busy_port.BUSY_WRITES + 1000


@pytest.fixture(autouse=True)
def slow_hosts_are_busy_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(busy_port, "BUSY_S", PATIENCE_S)


@pytest.fixture
def coalesces() -> None:
    system = System()
    missing = not system.capability(Capability.COALESCED_PIO)
    system.close()
    if missing:
        pytest.skip("this kernel coalesces no ports")


def dots(count: int) -> str:
    """Code that prints so many: mov ecx, …; mov dx, SERIAL; mov al, '.'; out dx, al; loop."""
    return f"b9{count.to_bytes(4, 'little').hex()}66baf803b02eeee2fd"


def wait_for(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def printed(code: str, until: str = "") -> str:
    """What a machine prints that runs *code*: all of it, or as far as *until*."""
    with Machine("x86_64", kernel=bzimage(code), memory="32M", accel="kvm") as vm:
        vm.start()
        if until:
            vm.console.expect(until, timeout=PATIENCE_S)
        else:
            assert vm.wait(PATIENCE_S).exit_status == 0
        return vm.console.output


def test_all_is_seen_before_the_machine_is_off() -> None:
    assert printed(dots(MANY) + say("!") + POWER_OFF + FOREVER) == "." * MANY + "!"


@pytest.mark.parametrize("end", [FOREVER, "faf4" + FOREVER], ids=["loops", "halts"])
def test_all_is_seen_though_the_guest_never_leaves_again(end: str) -> None:
    assert printed(dots(MANY) + say("!") + end, until="!") == "." * MANY + "!"


def test_all_is_seen_when_the_machine_is_stopped() -> None:
    with Machine("x86_64", kernel=bzimage(dots(MANY) + FOREVER), memory="32M") as vm:
        vm.start()
        vm.console.expect("...", timeout=PATIENCE_S)
        wait_for(lambda: len(vm.console.output) == MANY)
        vm.stop()
        assert vm.console.output == "." * MANY


def test_the_divisor_is_no_text() -> None:
    # The same port is the divisor's low byte while line control says so.
    divisor = port(LINE_CONTROL, 0x83) + port(SERIAL, 0x41) + port(LINE_CONTROL, 0x03)
    code = dots(MANY) + divisor + say("a") + divisor + say("b") + POWER_OFF + FOREVER
    assert printed(code) == "." * MANY + "ab"


def test_a_string_instruction_loses_nothing() -> None:
    text = "".join(chr(ord("a") + number % 26) for number in range(1000))
    assert len(text) > mmap.PAGESIZE // 24, "the ring has fewer places"
    end = say("!") + POWER_OFF + FOREVER
    # mov ecx, 1000; mov dx, SERIAL; rep outsb
    output = "b9e803000066baf803f36e" + end
    # lea rsi, [rip + …]: behind the code
    source = "488d35" + (len(output) // 2).to_bytes(4, "little").hex()
    assert printed(dots(MANY) + source + output + text.encode().hex()) == "." * MANY + text + "!"


class Port:
    """The serial port of a small guest, coalesced; *taken* is what came together."""

    def __init__(self, guest: Guest) -> None:
        self.taken: list[bytes] = []
        self.threads: set[int] = set()
        guest.vm.coalesce_port(SERIAL, self.take)
        self.vm = guest.vm

    def take(self, data: bytes) -> None:
        self.taken.append(data)
        self.threads.add(threading.get_ident())

    @property
    def watched(self) -> bool:
        return any(one.name == "busy port" for one in threading.enumerate())


def counted(vcpu: KvmVcpu) -> Iterator[Exit]:
    """Exits up to the end, a write to port 0x10."""
    while (exit := run(vcpu)) != PortWrite(0x10, 1, 0x2E):
        if isinstance(exit, PortRead):
            vcpu.complete(0x60)
        yield exit


BURSTS = 64
REAL = "b94000bafd03ecbaf803b02e" + "ee" * 16 + "e2e5e610ebfe"
"""mov cx, 64; a burst; loop; out 0x10, al; jmp $"""


def test_few_writes_of_a_busy_port_are_exits(coalesces: None) -> None:
    with guest() as it:
        serial = Port(it)
        exits = list(counted(it.real(REAL)))
        writes = [exit for exit in exits if isinstance(exit, PortWrite)]
        assert len(writes) <= busy_port.BUSY_WRITES + 1
        assert len(exits) - len(writes) == BURSTS
        together = b"".join(serial.taken)
        assert len(writes) + len(together) == BURSTS * 16
        assert set(together) == {ord(".")}
        assert serial.threads == {threading.get_ident()}


def test_without_the_capability_every_write_is_an_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = System.capability

    def lacking(system: System, capability: Capability) -> int:
        return 0 if capability is Capability.COALESCED_PIO else whole(system, capability)

    monkeypatch.setattr(System, "capability", lacking)
    with guest() as it:
        serial = Port(it)
        exits = list(counted(it.real(REAL)))
        assert len(exits) == BURSTS * 17
        assert not serial.taken


def test_a_write_is_taken_before_another_processors_exit(
    coalesces: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(busy_port, "_TICK_S", PATIENCE_S)  # only exits have it taken
    with guest(cpus=2) as it:
        serial = Port(it)
        first, second = it.vcpus
        # mov cx, 200; mov dx, SERIAL; mov al, '.'; out dx, al; loop; mov al, '!'; out dx, al; jmp $
        code = "b9c800baf803b02eeee2fdb021eeebfe"
        it.real(code)
        kicked = threading.Event()

        def run_first() -> None:
            while not kicked.is_set():
                first.run()

        thread = threading.Thread(target=run_first)
        thread.start()
        coalesced = it.vm.coalesced
        assert coalesced is not None
        wait_for(lambda: coalesced.waiting)
        time.sleep(0.05)  # by now it loops
        it.put(0x3000, bytes.fromhex("e611"))  # out 0x11, al
        second.set_many({"mp_state": 0, "cs.base": 0, "cs": 0, "rip": 0x3000, "rflags": 2})
        assert run(second) == PortWrite(0x11, 1, 0)
        assert serial.taken[-1][-1:] == b"!"
        kicked.set()
        first.kick()
        thread.join(PATIENCE_S)


def test_a_port_that_fell_quiet_is_watched_no_more(coalesces: None) -> None:
    with guest() as it:
        serial = Port(it)
        vcpu = it.real(REAL)
        for _ in counted(vcpu):
            pass
        assert serial.watched
        wait_for(lambda: not serial.watched)
        vcpu.set("rip", 0x2000)
        it.put(0x2000, bytes.fromhex("baf803b02eee"))
        assert run(vcpu) == PortWrite(SERIAL, 1, ord("."))


def test_only_one_port_of_a_vm_is_coalesced(coalesces: None) -> None:
    with guest() as it:
        Port(it)
        with pytest.raises(KvmError, match="port 0x3f8 is coalesced already"):
            it.vm.coalesce_port(0x2F8, print)


def test_a_vm_can_be_closed_at_any_time(coalesces: None) -> None:
    for _ in range(20):
        with guest() as it:
            serial = Port(it)
            vcpu = it.real(REAL)
            for _ in zip(range(80), counted(vcpu), strict=False):
                pass
        assert not serial.watched
