"""Translation speed: a program shaped like the boot of a kernel, every block run once.

The same program without its blocks is measured too: the difference is what translating (and
running once) costs.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from benchmarks import build
from benchmarks.case import Case
from benchmarks.compute import bare_metal_commands

BLOCKS = 100_000
DONE = "translated"
_REGISTERS = ("a0", "a1", "a2", "a3", "a4", "a5", "t3", "t4", "t5", "t6", "s2", "s3", "s4", "s5")
_THREE = ("add", "sub", "xor", "or", "and", "sll", "srl", "addw", "subw", "slt", "sltu", "mul")
_IMMEDIATE = ("addi", "xori", "ori", "andi", "addiw", "slti")
_LOADS = ("ld", "lw", "lwu", "lbu", "lhu")
_STORES = ("sd", "sw", "sb", "sh")


def _instruction(numbers: random.Random) -> str:
    """One instruction without a jump: a third of them touch memory, as in compiled code."""
    first, second, third = (numbers.choice(_REGISTERS) for _ in range(3))
    kind = numbers.random()
    if kind < 0.22:
        return f"{numbers.choice(_LOADS)} {first}, {8 * numbers.randrange(64)}(s0)"
    if kind < 0.36:
        return f"{numbers.choice(_STORES)} {first}, {8 * numbers.randrange(64)}(s0)"
    if kind < 0.66:
        return f"{numbers.choice(_IMMEDIATE)} {first}, {second}, {numbers.randrange(-512, 512)}"
    if kind < 0.74:
        return f"li {first}, {numbers.randrange(1 << 20)}"
    return f"{numbers.choice(_THREE)} {first}, {second}, {third}"


def source(blocks: int) -> str:
    """Assembly text of a ``main`` that runs through *blocks* blocks, each of them once.

    sp is positive, so ``bltz sp`` is never taken and ``bgtz sp`` always.
    """
    numbers = random.Random(2026)
    lines = [
        *(".option norelax", ".bss", ".balign 16", "scratch: .zero 512"),
        *(".text", ".globl main", "main:", "mv s11, ra", "la s0, scratch"),
    ]
    done = 0
    while done < blocks:
        lines += [_instruction(numbers) for _ in range(numbers.choice((2, 3, 4, 5, 6, 8)))]
        kind = numbers.random()
        if kind < 0.4 or blocks - done < 3:
            lines += [f"bltz sp, past_{done}", f"past_{done}:"]
            done += 1
        elif kind < 0.65:
            lines += [f"bgtz sp, past_{done}", "addi a0, a0, 1", f"past_{done}:"]
            done += 1
        elif kind < 0.8:
            lines += [f"j past_{done}", "addi a0, a0, 1", f"past_{done}:"]
            done += 1
        else:  # a call, the function, and what follows its return: three blocks
            lines += [
                *(f"jal ra, function_{done}", "addi a1, a1, 1", f"j past_{done}"),
                *(f"function_{done}: addi a2, a2, 1", "xor a3, a3, a2", "ret", f"past_{done}:"),
            ]
            done += 3
    lines += [
        "li t0, 0x10000000",
        *(f"li t1, {ord(letter)}\nsb t1, 0(t0)" for letter in f"{DONE}\n"),
        *("mv ra, s11", "ret", ""),
    ]
    return "\n".join(lines)


def cases(folder: Path) -> Iterator[Case]:
    """The program with its blocks and without."""
    for name, blocks in (("blocks-100000", BLOCKS), ("blocks-0", 0)):
        text = folder / f"{name}.s"
        text.write_text(source(blocks), encoding="ascii")
        elf = build.baremetal([text], folder / f"{name}.elf")
        yield Case("translate", name, bare_metal_commands(elf), expect=DONE)
