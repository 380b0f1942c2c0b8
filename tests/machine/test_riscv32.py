"""32-bit RISC-V machines: a supervisor of our own on built-in firmware and on OpenSBI.

The same program runs on QEMU; there is no 32-bit kernel to be had as a package.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tandemu import Machine
from tandemu.guests import fetch_packages
from tandemu.guests.deb import DebFile
from tandemu.machine import Ending, OptionError
from tests.long import STRESS

PATIENCE_S = 900 if STRESS else 120
SOURCE = Path(__file__).parent / "programs" / "supervisor.S"
SAYS = ["supervisor", "translation", "user mode", "wait", "timer", "second hart"]
COMPILER = "riscv64-unknown-elf-gcc"
ABI = {32: "ilp32", 64: "lp64"}


@pytest.fixture(scope="module", params=[32, 64])
def xlen(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module")
def supervisor(xlen: int, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not shutil.which(COMPILER):
        pytest.skip(f"no {COMPILER}")
    program = tmp_path_factory.mktemp("supervisor") / f"supervisor{xlen}"
    # Without the ELF header in the segment: QEMU starts a kernel at its lowest address.
    subprocess.run(
        [COMPILER, f"-march=rv{xlen}imac_zicsr", f"-mabi={ABI[xlen]}", "-nostdlib",
         "-Wl,-N,-Ttext=0x80400000,--no-warn-rwx-segments", "-o", program, SOURCE],
        check=True,
    )  # fmt: skip
    return program


def lines(output: str) -> list[str]:
    """What the supervisor printed."""
    every = [line.strip() for line in output.splitlines() if line.strip()]
    return every[every.index(SAYS[0]) :]


@pytest.mark.guest
def test_a_supervisor_on_built_in_firmware(supervisor: Path, xlen: int) -> None:
    with Machine(f"riscv{xlen}", kernel=supervisor, cpus=2, memory="64M", timeout=PATIENCE_S) as vm:
        vm.start()
        assert vm.wait().ending is Ending.POWERED_OFF
        assert lines(vm.console.output) == SAYS


@pytest.mark.guest
def test_a_supervisor_on_opensbi(supervisor: Path, xlen: int) -> None:
    package = DebFile(fetch_packages(["opensbi"], "riscv64")["opensbi"])
    firmware = package.read(f"usr/lib/riscv{xlen}-linux-gnu/opensbi/generic/fw_dynamic.bin")
    options = {"kernel": supervisor, "firmware": firmware, "cpus": 2, "memory": "64M"}
    with Machine(f"riscv{xlen}", **options, timeout=PATIENCE_S) as vm:
        vm.start()
        assert vm.wait().ending is Ending.POWERED_OFF
        assert f"rv{xlen}imafdc" in vm.console.output
        assert lines(vm.console.output) == SAYS


@pytest.mark.guest
def test_qemu_says_the_same(supervisor: Path, xlen: int) -> None:
    qemu = f"qemu-system-riscv{xlen}"
    if not shutil.which(qemu):
        pytest.skip(f"no {qemu}")
    done = subprocess.run(
        [qemu, "-M", "virt", "-smp", "2", "-m", "64", "-nographic", "-kernel", supervisor],
        check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=PATIENCE_S,
    )  # fmt: skip
    assert lines(done.stdout) == SAYS


def test_bare_metal() -> None:
    # lui t0, 0x100 (the test finisher); lui t1, 5; addi t1, t1, 0x555; sw t1, 0(t0)
    code = bytes.fromhex("b7021000375300001303535523a06200")
    options = {"kernel": code, "firmware": "none", "memory": "16M"}
    with Machine("riscv32", **options, timeout=PATIENCE_S) as vm:
        vm.start()
        assert vm.wait().ending is Ending.POWERED_OFF
        assert vm.statistics()["instructions"] > 4


def test_the_board_is_one_of_32_bits() -> None:
    vm = Machine("riscv32", kernel=bytes(64), firmware="none", memory="16M")
    assert vm.board.isa_string.startswith("rv32imafdc_") and vm.board.mmu == "sv32"
    with pytest.raises(OptionError, match="2048 MiB"):
        Machine("riscv32", kernel=bytes(64), firmware="none", memory="3G")
