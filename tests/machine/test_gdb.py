"""GDB on machines: a kernel with symbols from its source, then Debian's own."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tandemu import Machine
from tests.machine.gdb import gdb, open_gdb
from tests.machine.test_debugging import counting

PATIENCE_S = 240
KERNEL = Path(__file__).with_name("programs") / "debugged.c"
pytestmark = pytest.mark.guest


@pytest.fixture(scope="session", params=["riscv64", "riscv32"])
def kernel(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kernel for two harts with debugging information, as an ELF file called by its guest."""
    target = tmp_path_factory.mktemp("debugged") / request.param
    xlen = request.param[5:]
    abi = "lp64" if xlen == "64" else "ilp32"
    subprocess.run(
        [
            *(
                "riscv64-unknown-elf-gcc",
                f"-march=rv{xlen}ima_zicsr_zifencei",
                f"-mabi={abi}",
                "-g",
                "-O1",
            ),
            *("-ffreestanding", "-nostdlib", "-static", "-fno-pie", "-no-pie", "-mcmodel=medany"),
            *(
                "-Wl,-Ttext=0x80000000",
                "-Wl,--build-id=none",
                "-Wl,-e,_start",
                "-fno-inline",
                "-Wl,--no-relax",
            ),
            *("-o", str(target), str(KERNEL)),
        ],
        check=True,
    )
    return target


@pytest.fixture
def vm(kernel: Path) -> Iterator[Machine]:
    machine = Machine(
        kernel.name, kernel=kernel, firmware="none", memory="32M", cpus=2, timeout=PATIENCE_S
    )
    with machine:
        machine.start(paused=True)
        yield machine


def values(output: str) -> dict[str, str]:
    """What ``printf "name=value\\n"`` said."""
    return dict(re.findall(r"^(\w+)=(.*)$", output, re.MULTILINE))


def test_start_up_breakpoints_steps_and_stack(vm: Machine, kernel: Path) -> None:
    place = vm.debugger("0").address
    output = gdb(
        place,
        [
            'printf "entry=%lx\\n", $pc',
            *("break fill if index == 3", "continue", "bt", 'printf "index=%d\\n", index'),
            *("finish", 'printf "sum=%d\\n", table[3]'),
            *("delete", "tbreak finished", "continue", 'printf "last=%d\\n", table[15]'),
            *("info threads", "kill"),
        ],
        file=str(kernel),
    )
    assert values(output) == {"entry": "1000", "index": "3", "sum": "9", "last": "225"}, output
    assert re.search(r"#1 .* in work \(hart=0\)", output), output
    assert "processor 1" in output


def test_watchpoints(vm: Machine, kernel: Path) -> None:
    output = gdb(
        vm.debugger("0").address,
        [
            *("break work", "continue", "delete", "watch table[5]", "continue"),
            *('printf "five=%d\\n", table[5]', "bt 1", "delete", "rwatch table[7]", "continue"),
            *("bt 1", "delete", "awatch counter", "continue", "bt 1", "detach"),
        ],
        file=str(kernel),
    )
    assert values(output) == {"five": "25"}, output
    assert "Old value = 0" in output and "New value = 1240" in output, output
    assert "Value = 49" in output and "add_up ()" in output, output


def test_two_harts_as_threads(vm: Machine, kernel: Path) -> None:
    output = gdb(
        vm.debugger("0").address,
        [
            *("break tick", "continue", "thread 2", 'printf "second=%d\\n", $tp', "delete"),
            *("set scheduler-locking on", "break tick thread 2", "continue"),
            *('printf "hart=%d\\n", hart', "info threads", "detach"),
        ],
        file=str(kernel),
    )
    assert values(output)["hart"] == "1", output


def test_registers_memory_and_monitor(vm: Machine, kernel: Path) -> None:
    output = gdb(
        vm.debugger("0").address,
        [
            *("break work", "continue", "set var table[1] = 77", 'printf "one=%d\\n", table[1]'),
            *("set $t0 = 0x1234", 'printf "t0=%x\\n", $t0', "p $mhartid", "p/x $mstatus"),
            *("monitor info mem", "monitor translate 0x80000000", "monitor physical 0x80000000 16"),
            *("monitor info devices", "monitor nonsense", "info registers system", "p $priv"),
            *("find &table[0], +sizeof(table), 77", "x/2i $pc", "detach"),
        ],
        file=str(kernel),
    )
    found = values(output)
    assert found["one"] == "77" and found["t0"] == "1234", output
    assert "no page tables are in force" in output and "0x80000000" in output
    assert "uart:" in output and "no command 'nonsense'" in output and "mtvec" in output
    assert "1 pattern found" in output


def test_code_that_is_written_over(vm: Machine, kernel: Path) -> None:
    """A breakpoint in code that the guest copies there afterwards."""
    output = gdb(
        vm.debugger("0").address,
        [
            *("break work", "continue", "delete"),
            'printf "copied=%lx\\n", (unsigned long)copied',
            *(
                "hbreak *(unsigned long)copied",
                "continue",
                'printf "at=%lx\\n", $pc',
                "stepi",
                "detach",
            ),
        ],
        file=str(kernel),
    )
    found = values(output)
    # GDB shows addresses of 32 bits with their sign.
    assert found["at"][-8:] == found["copied"][-8:], output


def test_interrupt_and_detach(vm: Machine) -> None:
    with open_gdb(vm.debugger("0").address, ["continue", "info threads", "detach"]) as process:
        deadline = time.monotonic() + PATIENCE_S
        while vm.paused and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.2)  # whatever it runs by then is interrupted
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=PATIENCE_S)
    assert "SIGINT" in output and "detached" in output, output
    assert vm.status == "running"


def test_step_speed_is_no_verdict_but_steps_are_exact() -> None:
    code = counting()
    with Machine(kernel=code.build(), firmware="none", memory="16M", timeout=PATIENCE_S) as vm:
        vm.start(paused=True)
        output = gdb(vm.debugger("0").address, [
            f"break *{code.labels['loop']:#x}", "continue", "delete", "stepi 300",
            'printf "t3=%d\\n", $t3', "detach"])  # fmt: skip
        assert values(output)["t3"] == "100", output
