"""What programs are told of the processor: only what it has, and all that Linux has a bit for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tandemu.isa.riscv.cache import BLOCK_SIZE
from tandemu.isa.riscv.instruction_set import RV64GC
from tandemu.linux.riscv64_processor import EXTENSION_BITS, HARDWARE_CAPABILITIES, NAMED, probe
from tests.linux.conftest import run_exec

# Counters are registers, the others are the privileged architecture's or hints without a bit.
COUNTERS = {"zicntr", "zihpm"}
UNTOLD = {"zicbop", "svinval", "priv"}

EXPECTED = """\
probe 0
0 0
1 0
2 0
3 0x1
4 0x8c00180000007b
5 0x3
6 0x40
7 0x3fffffffff
8 0x989680
9 0x3
10 0x4
12 0x40
-1 0
which 0 1 0 0 0 0 -1
bad -1 -1
hwcap 0x112d
cbo.zero 1001
sh1add 17
andn 0xf0
bset 0x10000000000
czero.eqz 5
time 1
isa\t\t: rv64imafdc_zicbom_zicboz_zicntr_zicond_zicsr_zifencei_zihintpause_zihpm_zba_zbb_zbs
"""


def test_extensions_are_those_of_the_instruction_set() -> None:
    has = {name.lower() for name in RV64GC.extensions}
    letters = {name for name in has if len(name) == 1}
    assert set(NAMED) - COUNTERS == has - letters - UNTOLD
    assert sum(1 << (ord(name) - ord("a")) for name in letters) == HARDWARE_CAPABILITIES
    assert set(EXTENSION_BITS) <= {*NAMED, "fd", "c"}
    assert probe(1 << 38)[6] == probe(1 << 38)[12] == BLOCK_SIZE


@pytest.mark.guest
def test_a_program_sees_them_and_they_work(build: Callable[..., Path]) -> None:
    ours = run_exec(build("processor"))
    assert ours.stdout.decode() == EXPECTED
    assert ours.returncode == 0
