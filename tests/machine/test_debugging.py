"""A machine under the debugger in Python, and the stub under a client without manners."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Iterator

import pytest

from tandemu import Machine, MachineError, MachineTimeout
from tandemu.debug.packets import PacketReader, frame
from tandemu.debug.target import Cause
from tests.jit.small_machine import Code

PATIENCE_S = 120
BASE = 0x8000_0000
DATA = BASE + 0x10_0000
ARCHITECTURES = ("riscv64", "riscv32")


def counting(xlen: int = 64) -> Code:
    """t3 counts up, and is kept at `DATA`."""
    code = Code(xlen=xlen).li(12, DATA)
    code.label("loop")("addi", rd=28, rs1=28, imm=1)
    code.label("store")("sw", rs1=12, rs2=28, imm=0)
    return code("jal", rd=0, to="loop")


@pytest.fixture(params=ARCHITECTURES)
def vm(request: pytest.FixtureRequest) -> Iterator[Machine]:
    code = counting(int(request.param[5:]))
    machine = Machine(
        request.param,
        kernel=code.build(),
        firmware="none",
        memory="16M",
        cpus=2,
        timeout=PATIENCE_S,
    )
    with machine:
        machine.start(paused=True)
        yield machine


def labels(vm: Machine) -> dict[str, int]:
    return counting(int(vm.architecture.name[5:])).labels


def test_frozen_machine_stands_at_its_entry(vm: Machine) -> None:
    vm.debug.step()
    assert vm.cpus[0].registers["pc"] == 0x1004
    assert vm.cpus[1].registers["pc"] == 0x1000


def test_run_to_an_address_and_look(vm: Machine) -> None:
    stop = vm.debug.run_to(labels(vm)["store"], timeout=PATIENCE_S)
    assert stop.cause is Cause.BREAKPOINT and vm.paused
    registers = vm.cpus[stop.thread - 1].registers
    assert registers["t3"] == 1
    vm.cpus[stop.thread - 1].step(3)
    assert registers["t3"] == 2
    assert int.from_bytes(vm.debug.read(DATA, 4), "little") in (1, 2)
    assert not vm.debug.breakpoints


def test_a_breakpoint_is_met_every_time(vm: Machine) -> None:
    vm.debug.breakpoints.add(labels(vm)["loop"])
    met = {1: 0, 2: 0}
    for _ in range(20):
        stop = vm.debug.go_on(PATIENCE_S)
        registers = vm.cpus[stop.thread - 1].registers
        assert registers["pc"] == labels(vm)["loop"]
        assert registers["t3"] == met[stop.thread]
        met[stop.thread] += 1
    vm.debug.breakpoints.clear()
    with pytest.raises(MachineTimeout, match="no breakpoint was met"):
        vm.debug.go_on(0.2)
    assert vm.paused


def test_watched_memory(vm: Machine) -> None:
    vm.debug.watch(DATA + 1, 2)
    stop = vm.debug.go_on(PATIENCE_S)
    assert (stop.cause, stop.address) == (Cause.WATCH_WRITE, DATA + 1)
    assert vm.cpus[stop.thread - 1].registers["pc"] == labels(vm)["store"] + 4
    vm.debug.unwatch()
    with pytest.raises(MachineTimeout):
        vm.debug.go_on(0.2)


def test_written_code_is_what_runs(vm: Machine) -> None:
    code = counting(int(vm.architecture.name[5:]))
    vm.debug.run_to(code.labels["loop"], timeout=PATIENCE_S)
    nop = Code(xlen=code.xlen)("addi", rd=0, rs1=0, imm=0).build()
    vm.debug.write(code.labels["loop"], nop)
    before = [cpu.registers["t3"] for cpu in vm.cpus]
    vm.debug.run_to(code.labels["store"], timeout=PATIENCE_S)
    vm.debug.run_to(code.labels["loop"], timeout=PATIENCE_S)
    assert [cpu.registers["t3"] for cpu in vm.cpus] == before


def test_reset_keeps_breakpoints(vm: Machine) -> None:
    vm.debug.breakpoints.add(labels(vm)["store"])
    vm.debug.go_on(PATIENCE_S)
    assert "begin" in vm.debug.command("reset")
    assert vm.cpus[0].registers["t3"] == 0
    stop = vm.debug.go_on(PATIENCE_S)
    assert vm.cpus[stop.thread - 1].registers["t3"] == 1


def test_the_end_is_a_stop() -> None:
    code = Code().li(5, 0x10_0000).li(6, 0x5555)("sw", rs1=5, rs2=6, imm=0)("jal", rd=0, imm=0)
    with Machine(kernel=code.build(), firmware="none", memory="16M", timeout=PATIENCE_S) as vm:
        vm.start(paused=True)
        stop = vm.debug.go_on(PATIENCE_S)
        assert (stop.cause, stop.signal) == (Cause.ENDED, 0)
        with pytest.raises(MachineError, match="ended"):
            vm.debug.step()


def test_needs_a_machine_that_stands() -> None:
    code = counting()
    with Machine(kernel=code.build(), firmware="none", memory="16M", timeout=PATIENCE_S) as vm:
        vm.start()
        with pytest.raises(MachineError, match="pause it first"):
            vm.debug.breakpoints.add(BASE)
        with pytest.raises(MachineError, match="address of 'start_kernel' is not known"):
            vm.debug.run_to("start_kernel")
        with pytest.raises(MachineError, match=r"must be \[ADDR:\]PORT or unix:PATH"):
            vm.debugger("nowhere")
        vm.pause()
        with pytest.raises(MachineError, match="not all of 4 bytes"):
            vm.debug.write(0x4000_0000, b"1234")


# ---- the protocol, by hand -----------------------------------------------------------------


class Client:
    """Sends packets and reads the answers."""

    def __init__(self, place: str) -> None:
        host, _, port = place.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=PATIENCE_S)
        self._reader = PacketReader()
        self._ready: list[bytes] = []
        self.ask(b"QStartNoAckMode")

    def ask(self, packet: bytes) -> bytes:
        self.socket.sendall(frame(packet))
        return self.answer()

    def answer(self) -> bytes:
        while not self._ready:
            data = self.socket.recv(1 << 16)
            if not data:
                raise EOFError
            self._ready += [one for one in self._reader.feed(data) if isinstance(one, bytes)]
        return self._ready.pop(0)


def test_vanished_client_leaves_the_machine_running(vm: Machine) -> None:
    server = vm.debugger("0")
    client = Client(server.address)
    assert client.ask(b"?").startswith(b"T05thread:1;")
    assert client.ask(b"Z0,%x,4" % labels(vm)["loop"]) == b"OK"
    client.socket.close()
    deadline = time.monotonic() + PATIENCE_S
    while vm.paused and time.monotonic() < deadline:
        time.sleep(0.01)
    assert vm.status == "running"
    # The next one finds no breakpoint of the first.
    client = Client(server.address)
    assert vm.paused
    client.socket.sendall(frame(b"vCont;c"))
    time.sleep(0.05)
    client.socket.sendall(b"\x03")
    assert client.answer().startswith(b"T02")


def test_client_that_vanishes_while_it_runs(vm: Machine) -> None:
    """Its breakpoint, which is met from then on, stops nothing."""
    client = Client(vm.debugger("0").address)
    assert client.ask(b"Z0,%x,4;X3,220027" % labels(vm)["loop"]) == b"OK"
    client.socket.sendall(frame(b"vCont;c"))
    client.socket.close()
    moved = vm.statistics()["instructions"]
    deadline = time.monotonic() + PATIENCE_S
    while vm.statistics()["instructions"] < moved + 1_000_000 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert vm.status == "running"
    vm.pause()
    assert not vm.debug.breakpoints


def test_a_second_client_is_told(vm: Machine) -> None:
    server = vm.debugger("0")
    first = Client(server.address)
    host, _, port = server.address.rpartition(":")
    second = socket.create_connection((host, int(port)), timeout=PATIENCE_S)
    assert b"another debugger" in second.recv(100)
    assert first.ask(b"qC") == b"QC1"


def test_step_range_and_locked_threads(vm: Machine) -> None:
    client = Client(vm.debugger("0").address)
    loop, store = labels(vm)["loop"], labels(vm)["store"]
    client.ask(b"Z0,%x,4" % loop)
    client.socket.sendall(frame(b"vCont;c:1"))
    assert client.answer().startswith(b"T05thread:1;")
    pc = client.ask(b"p20")
    assert int.from_bytes(bytes.fromhex(pc.decode()), "little") == loop
    client.socket.sendall(frame(b"vCont;r%x,%x:1;c" % (loop, store + 4)))
    assert client.answer().startswith(b"T05thread:")


WORDS = (
    *(b"g", b"G", b"p", b"P", b"m", b"M", b"X", b"H", b"T", b"Z", b"z", b"?", b"qC", b"vCont;"),
    *(b"qXfer:features:read:target.xml:", b"qXfer:threads:read::", b"qRcmd,", b"qSearch:memory:"),
    *(b"qSupported", b"qfThreadInfo", b"qThreadExtraInfo,", b"vCont?", b"s", b"S", b"C"),
)
PIECES = (
    *(b"0", b"1", b"2", b"ffffffffffffffff", b"80000000", b"-1", b",", b":", b";", b"=", b"X"),
    *(b"s", b"t", b"r", b"zz", b"7fffffff,7fffffff", b"696e666f206d656d", b"\x7d\x03", b"xx"),
)


@pytest.mark.parametrize("seed", range(3))
def test_hostile_packets(vm: Machine, seed: int) -> None:
    """Whatever comes, the stub answers or hangs up, and the machine is there afterwards."""
    chance = random.Random(seed)
    server = vm.debugger("0")
    client = Client(server.address)
    for _ in range(300):
        packet = chance.choice(WORDS)
        packet += b"".join(chance.choice(PIECES) for _ in range(chance.randrange(6)))
        if chance.random() < 0.05:
            packet = bytes(byte for byte in chance.randbytes(20) if byte not in b"#$}\x03")
        if packet[:1] in b"kDcC\x03" or b"vCont;c" in packet:
            continue  # what lets it run, or go
        answer = client.ask(packet)
        assert not answer.startswith(b"O") or answer == b"OK" or packet.startswith(b"qRcmd")
        while answer.startswith(b"O") and answer != b"OK":
            answer = client.answer()
    client.socket.sendall(b"$" + b"a" * 70_000)
    with pytest.raises((EOFError, ConnectionError)):
        client.answer()
    again = Client(server.address)
    assert again.ask(b"qC").startswith(b"QC")


def test_damaged_packets_are_asked_for_again(vm: Machine) -> None:
    host, _, port = vm.debugger("0").address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as link:
        link.sendall(b"+$qC#00")
        assert link.recv(1) == b"-"
        link.sendall(b"$qC#b4")
        assert link.recv(1) == b"+" and link.recv(3) == b"$QC"
