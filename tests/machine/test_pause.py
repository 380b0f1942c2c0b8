"""A machine that stands still: pausing, looking, changing, going on, in another machine too."""

from __future__ import annotations

import hashlib
import os
import random
import re
import threading
import time
from pathlib import Path

import pytest

from tandemu import Machine
from tandemu.accel import MmioRead
from tandemu.board.riscv_parts import RAM_BASE, UART
from tandemu.guests import pull_image
from tandemu.machine import Ending, MachineError
from tandemu.machine.attachments import Drive
from tests.long import LONG, STRESS
from tests.machine.scripted import IDLE, Script, ScriptedVcpu
from tests.machine.test_machine import POWER_OFF, finish, say, scripted  # noqa: F401

PROMPT = "~ # "
PATIENCE_S = 900 if STRESS else 120
BUSY = bytes.fromhex("130515006ff0dfff")
"""again: addi a0, a0, 1; j again"""


def busy_machine(cpus: int = 1, arch: str = "riscv64") -> Machine:
    return Machine(arch, kernel=BUSY, firmware="none", memory="16M", cpus=cpus, timeout=PATIENCE_S)


def is_moving(vm: Machine) -> bool:
    before = vm.statistics()["instructions"]
    deadline = time.monotonic() + PATIENCE_S
    while vm.statistics()["instructions"] == before and time.monotonic() < deadline:
        time.sleep(0.01)
    return vm.statistics()["instructions"] != before


@pytest.mark.parametrize("cpus", [1, 4])
def test_processors_stand_and_go_on(cpus: int) -> None:
    with busy_machine(cpus) as vm:
        vm.start()
        for _ in range(20):
            vm.pause()
            assert vm.status == "paused" and vm.paused
            before = [cpu.registers["a0"] for cpu in vm.cpus], vm.read_state().clock
            time.sleep(0.003)
            assert ([cpu.registers["a0"] for cpu in vm.cpus], vm.read_state().clock) == before
            vm.resume()
        assert is_moving(vm) and vm.status == "running"
        vm.pause()
        vm.cpus[0].registers["a0"] = 7 << 60
        vm.resume()
        vm.pause()
        assert vm.cpus[0].registers["a0"] >= 7 << 60
        vm.resume()
    assert vm.status == "ended"


def test_only_a_paused_machine_is_looked_at() -> None:
    vm = busy_machine()
    with pytest.raises(MachineError, match="not started"):
        vm.pause()
    with pytest.raises(MachineError, match="not started: pause it first"):
        vm.memory[RAM_BASE : RAM_BASE + 4]
    with vm:
        vm.start(paused=True)
        assert vm.paused
        vm.pause()
        assert vm.memory[RAM_BASE : RAM_BASE + 8] == BUSY and vm.memory[RAM_BASE] == BUSY[0]
        vm.memory[RAM_BASE + 64 : RAM_BASE + 68] = b"abcd"
        vm.memory[RAM_BASE + 64] = ord("x")
        assert vm.memory[RAM_BASE + 63 : RAM_BASE + 69] == b"\0xbcd\0"
        for wrong in (0x7000_0000, slice(RAM_BASE - 1, RAM_BASE + 1), slice(RAM_BASE, None)):
            with pytest.raises(MachineError, match="memory"):
                vm.memory[wrong]
        with pytest.raises(MachineError, match="as many"):
            vm.memory[RAM_BASE : RAM_BASE + 4] = b"abc"
        with pytest.raises(MachineError, match="no register"):
            vm.cpus[0].registers["nonsense"]
        vm.resume()
        vm.resume()
        with pytest.raises(MachineError, match="running: pause it first"):
            vm.cpus[0].registers["pc"]
    with pytest.raises(MachineError, match="ended"):
        vm.pause()


def test_code_that_is_changed_while_paused_runs_after_a_fence() -> None:
    """A debugger's write goes through the door like a device's."""
    with busy_machine() as vm:
        vm.start()
        assert is_moving(vm)
        vm.pause()
        # fence.i; li a1, 42; j .
        vm.memory[RAM_BASE + 64 : RAM_BASE + 76] = bytes.fromhex("0f1000009305a0026f000000")
        vm.cpus[0].registers["pc"] = RAM_BASE + 64
        vm.resume()
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            vm.pause()
            found = vm.cpus[0].registers["a1"]
            vm.resume()
            if found == 42:
                break
        assert found == 42


@pytest.mark.parametrize("action", ["stop", "reset", "timeout"])
def test_a_paused_machine_ends_and_is_reset(action: str) -> None:
    vm = Machine(
        kernel=BUSY,
        firmware="none",
        memory="16M",
        cpus=2,
        timeout=1 if action == "timeout" else None,
    )
    with vm:
        vm.start()
        vm.pause()
        if action == "reset":
            vm.cpus[0].registers["a0"] = 99
            vm.reset()
            deadline = time.monotonic() + PATIENCE_S
            while vm._cycle is None or not vm._cycle._pauses or vm._cycle._ending:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert vm.paused and vm.cpus[0].registers["a0"] == 0
            vm.resume()
            assert is_moving(vm)
        if action == "timeout":
            assert vm.wait(PATIENCE_S).exit_status == 124
        else:
            vm.stop()
    assert not vm.paused


def test_no_access_is_half_done(scripted) -> None:  # noqa: F811
    """A vCPU that pauses with an answer at hand finishes the access first."""
    with busy_machine() as vm:
        vm.start(paused=True)
        # li t0, 0x10000000; again: lbu a1, 5(t0); addi a0, a0, 1; j again
        code = bytes.fromhex("b702001083c55200130515006ff09fff")
        vm.memory[RAM_BASE : RAM_BASE + len(code)] = code
        vm.resume()
        for _ in range(50):
            vm.pause()
            registers, cpu = vm.cpus[0].registers, vm._paused_vcpu(0).cpu
            assert cpu.response_state == 0
            # Behind the load what it read is there.
            assert registers["pc"] != RAM_BASE + 8 or registers["a1"] == 0x60
            vm.resume()


def test_pausing_from_many_threads(scripted) -> None:  # noqa: F811
    with busy_machine(2) as vm:
        vm.start()
        errors: list[BaseException] = []

        def pester() -> None:
            try:
                for _ in range(20):
                    vm.pause()
                    vm.resume()
                    vm.dump()
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=pester) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert not errors and vm.running
        vm.resume()
        assert is_moving(vm)


def test_input_waits_while_the_machine_is_paused(scripted) -> None:  # noqa: F811
    def script(vcpu: ScriptedVcpu) -> Script:
        yield from say(b"ready\n")
        while not (yield MmioRead(UART.base + 5, 1)) & 1:
            pass
        yield from say(bytes(((yield MmioRead(UART.base, 1)),)))
        yield finish(POWER_OFF)

    vm, engine = scripted(script)
    vm.start()
    vm.console.expect("ready")
    vm.pause()
    assert engine.standing
    vm.console.send("k")
    time.sleep(0.05)
    assert not vm._cycle.instance.uart.read(5, 1) & 1
    vm.resume()
    assert not engine.standing
    assert vm.wait(10).ending is Ending.POWERED_OFF and vm.console.output.endswith("k")


def test_a_machine_is_not_paused_by_its_own_thread(scripted) -> None:  # noqa: F811
    tried: list[BaseException] = []

    def script(vcpu: ScriptedVcpu) -> Script:
        yield from say(b"x")
        yield IDLE

    vm, _ = scripted(script)

    def watch(data: bytes) -> None:
        try:
            vm.pause()
        except MachineError as error:
            tried.append(error)
        vm.request_stop()

    vm.console.mirror(watch)
    vm.start()
    vm.wait(10)
    assert "own threads" in str(tried[0])


def test_the_state_of_another_machine_does_not_fit() -> None:
    with busy_machine() as one, busy_machine(2) as two:
        one.start(paused=True)
        two.start(paused=True)
        with pytest.raises(MachineError, match=r"with 1 CPU\(s\), this one has 2"):
            two.put_state(one.read_state())


@pytest.mark.parametrize("arch", ["riscv64", "riscv32"])
def test_all_state_goes_into_another_machine(arch: str) -> None:
    chance = random.Random(5)
    with busy_machine(arch=arch) as one, busy_machine(arch=arch) as two:
        one.start(paused=True)
        two.start(paused=True)
        registers = one.cpus[0].registers
        for name in registers:
            if name not in ("privilege", "waiting", "pc", "mcountinhibit"):
                registers[name] = chance.getrandbits(64)
        state = one.read_state()
        two.put_state(state)
        assert two.read_state() == state
        wanted = ("mip.software", "mip.wires", "stimecmp", "fflags", "frm", "pmpaddr3", "satp")
        assert {*wanted} <= set(registers)


def copy_machine(source: Machine, target: Machine) -> None:
    """All of a paused machine into another one that is paused."""
    memories = target._cycle.instance.memories
    for name, ram in source._cycle.instance.memories.items():
        end = 0
        while end < ram.size:
            try:  # what was never written is not touched
                start = os.lseek(ram.fd, end, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(ram.fd, start, os.SEEK_HOLE)
            memories[name].view[start:end] = ram.view[start:end]
    target.put_state(source.read_state())


@pytest.fixture(scope="module")
def boot_seconds() -> float:
    begun = time.monotonic()
    with Machine.of_guest(timeout=PATIENCE_S) as vm:
        vm.start()
        vm.console.expect(PROMPT, PATIENCE_S)
    return time.monotonic() - begun


@pytest.mark.guest
@pytest.mark.timeout(8 * PATIENCE_S)
@pytest.mark.parametrize("cpus", [1, 4])
def test_linux_goes_on_in_another_machine(cpus: int, boot_seconds: float) -> None:
    """From random points of its boot, each time in a new machine, to the same end."""
    chance = random.Random(cpus)
    count = 20 if LONG else 3
    image = pull_image("debian-riscv64")

    def make() -> Machine:
        return Machine(
            kernel=image.kernel, initrd=image.initrd, append="console=ttyS0 quiet",
            memory="256M", cpus=cpus, timeout=8 * PATIENCE_S,
        )  # fmt: skip

    vm = make()
    output = ""
    vm.start()
    try:
        for _ in range(count):
            time.sleep(chance.uniform(0.2, 1.5) * boot_seconds / count)
            vm.pause()
            following = make()
            following.start(paused=True)
            copy_machine(vm, following)
            output += vm.console.output
            vm.stop()
            vm = following
            vm.resume()
        if PROMPT not in output:
            vm.console.expect(PROMPT, PATIENCE_S)
        vm.console.send("cat /proc/cpuinfo | grep -c processor; uname -m\n")
        vm.console.expect(re.compile(rf"{cpus}\r?\nriscv64"), PATIENCE_S)
        vm.console.send("exit 0\n")
        assert vm.wait(PATIENCE_S).ending is Ending.POWERED_OFF
        output += vm.console.output
        assert "rcu" not in output and "BUG" not in output and "lockup" not in output, output
    finally:
        vm.stop()


@pytest.mark.guest
@pytest.mark.timeout(8 * PATIENCE_S)
def test_a_disk_goes_on_in_another_machine(tmp_path: Path) -> None:
    """Requests under way, and the interrupts that answer them, are part of the state."""
    content = random.Random(1).randbytes(8 << 20)
    image = tmp_path / "disk.img"
    image.write_bytes(content)
    drive = Drive(str(image), "raw", read_only=True)

    def make() -> Machine:
        options = {"memory": "256M", "timeout": 8 * PATIENCE_S}
        return Machine.of_guest("debian-disk-riscv64", drives=[drive], **options)

    vm, rounds = make(), 6
    vm.start()
    try:
        vm.console.expect(PROMPT, PATIENCE_S)
        reading = "echo 3 > /proc/sys/vm/drop_caches; md5sum /dev/vda"
        vm.console.send(f"for i in $(seq {rounds}); do {reading}; done; echo all do''ne\n")
        output = ""
        for _ in range(3):
            time.sleep(0.3)
            vm.pause()
            following = make()
            following.start(paused=True)
            copy_machine(vm, following)
            output += vm.console.output
            vm.stop()
            vm = following
            vm.resume()
        if "all done" not in output:
            vm.console.expect("all done", PATIENCE_S)
        output += vm.console.output
        assert output.count(hashlib.md5(content).hexdigest()) == rounds
        assert "nobody cared" not in output, output
    finally:
        vm.stop()
