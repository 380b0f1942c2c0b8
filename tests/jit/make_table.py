"""Fills `instructions.table` in from oracles: ``python -m tests.jit.make_table``.

The bytes of every line come from the GNU assembler. The outputs of lines under
``# By qemu-riscv64`` come from that emulator, one small static program per line:
it loads all registers, jumps to the instruction at its address, which is
surrounded by calls of a routine that writes everything out. A line may have a
``?`` for its bytes and its outputs. The outputs of lines under ``# By hand`` are
left alone: they are of the privileged architecture, and from its specification.

Needs riscv64-linux-gnu-gcc and qemu-riscv64 10.
"""

from __future__ import annotations

import re
import struct
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tandemu.bits import mask
from tandemu.isa.riscv.registers import NAMES
from tests.jit.instruction_table import (
    BY_HAND,
    BY_ORACLE,
    TABLE,
    Items,
    Line,
    destination,
    memory,
    parse_line,
)

COMPILER, OBJCOPY, EMULATOR = "riscv64-linux-gnu-gcc", "riscv64-linux-gnu-objcopy", "qemu-riscv64"
EXTENSIONS = "zba zbb zbs zicbom zicbop zicboz svinval zihintpause zifencei zicsr"
BASE, WINDOW, WINDOW_SIZE = 0x8000_0000, 0x8010_0000, 512
INTEGERS = NAMES["x"][1:30]
"""Registers that an instruction may use: the harness needs the last two."""
FLOATS = NAMES["f"]
SIZE = 8 * (1 + len(INTEGERS) + len(FLOATS) + 1)

HARNESS = """
.option norelax
.option arch, {extensions}
.section .window, "aw"
window: {window}
.section .line, "ax"
origin:
.rept {before}
jal t6, dump
.endr
.globl instruction
instruction: {instruction}
end_of_instruction:
.rept 256
jal t6, dump
.endr
.section .harness, "ax"
.globl _start
_start:
lla t6, input
fscsr zero
{load_floats}
ld t5, {control}(t6)
fscsr t5
{reserve}
lla t6, input
{load_integers}
li t5, 0
lla t6, instruction
jr t6
dump:
lla t5, output
sd t6, 0(t5)
{store_integers}
{store_floats}
frcsr t6
sd t6, {control}(t5)
li a0, 1
lla a1, output
li a2, {size}
li a7, 64
ecall
li a0, 1
lla a1, window
li a2, {window_size}
li a7, 64
ecall
li a0, 0
li a7, 93
ecall
.data
.balign 8
input: {input}
output: .zero {size}
"""


def gnu_text(line: Line) -> str:
    """The instruction as the GNU assembler of today takes it."""
    name, _, rest = line.text.partition(" ")
    if name.startswith("czero."):
        function = 5 if name.endswith("eqz") else 7
        return f".insn r 0x33, {function}, 7, {rest}"
    option = "rvc" if name.startswith("c.") else "norvc"
    # A branch to a number, not a label, would become two instructions.
    text = re.sub(r"\b0x8000[0-9a-f]{4}$", lambda it: f"{int(it[0], 0) - BASE} + origin", line.text)
    return f".option {option}\n{text}\n"


def source(line: Line) -> str:
    window = bytearray(WINDOW_SIZE)
    for address, data in memory(line.inputs):
        window[address - WINDOW : address - WINDOW + len(data)] = data
    values = [0, *(line.inputs.get(name, 0) for name in (*INTEGERS, *FLOATS))]
    frm, fflags = (line.inputs.get(name, 0) for name in ("frm", "fflags"))
    assert isinstance(frm, int) and isinstance(fflags, int)
    values.append(frm << 5 | fflags)
    reserve = ""
    if "lr" in line.inputs:
        reserve = f"li t5, {line.inputs['lr']}\nlr.{line.name[-1]} t6, (t5)"
    integers = list(enumerate(INTEGERS, 1))
    floats = list(enumerate(FLOATS, 1 + len(INTEGERS)))
    return HARNESS.format(
        window="\n".join(f".byte {byte}" for byte in window),
        extensions=", ".join("+" + name for name in EXTENSIONS.split()),
        before=(line.address - BASE) // 4,
        instruction=gnu_text(line),
        control=SIZE - 8,
        size=SIZE,
        window_size=WINDOW_SIZE,
        reserve=reserve,
        load_floats="\n".join(f"fld {name}, {8 * place}(t6)" for place, name in floats),
        load_integers="\n".join(f"ld {name}, {8 * place}(t6)" for place, name in integers),
        store_floats="\n".join(f"fsd {name}, {8 * place}(t5)" for place, name in floats),
        store_integers="\n".join(f"sd {name}, {8 * place}(t5)" for place, name in integers),
        input="\n".join(f".dword {value}" for value in values),
    )


def fill_in(line: Line, folder: Path) -> Line:
    """*line* with what the oracles say."""
    stem = folder / str(id(line))
    stem.with_suffix(".s").write_text(source(line))
    command: list[str | Path] = [COMPILER, "-nostdlib", "-static", "-march=rv64gc", "-o", stem]
    command += [f"-Wl,--section-start=.line={BASE:#x},--section-start=.window={WINDOW:#x}"]
    command += ["-Wl,--section-start=.harness=0x80020000,--no-relax"]
    command += ["-Wl,--defsym=__global_pointer$=0", stem.with_suffix(".s")]
    done = subprocess.run(command, check=False, timeout=60, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{line.text}: {done.stderr}")
    raw = stem.with_suffix(".bin")
    subprocess.run([OBJCOPY, "-O", "binary", "-j", ".line", stem, raw], check=True, timeout=60)
    code = raw.read_bytes()[line.address - BASE :]
    line.bytes = code[: 4 if code[0] & 3 == 3 else 2]
    if line.by_hand:
        return line
    done_binary = subprocess.run(
        [EMULATOR, "-cpu", "max", stem], check=False, timeout=60, capture_output=True
    )
    if done_binary.returncode:
        raise SystemExit(f"{line.text}: {EMULATOR} ended with {done_binary.returncode}")
    line.outputs = outputs(line, done_binary.stdout)
    return line


def outputs(line: Line, answer: bytes) -> Items:
    """What changed, and the result in any case."""
    pc, *values = struct.unpack_from(f"<{SIZE // 8}Q", answer)
    window = answer[SIZE:]
    result, items = destination(line), Items()
    for name, value in zip((*INTEGERS, *FLOATS), values, strict=False):
        if name == result or value != line.inputs.get(name, 0):
            items[name] = value
    before = bytearray(WINDOW_SIZE)
    for address, data in memory(line.inputs):
        before[address - WINDOW : address - WINDOW + len(data)] = data
    for place in range(0, WINDOW_SIZE, 8):
        if window[place : place + 8] != before[place : place + 8]:
            items[f"[{WINDOW + place:x}]"] = window[place : place + 8][::-1].hex()
    for name, value in (("fflags", values[-1] & 31), ("frm", values[-1] >> 5)):
        if value != line.inputs.get(name, 0):
            items[name] = value
    if pc - 4 != line.following:
        items["pc"] = (pc - 4) & mask(64)
    return items


def main() -> None:
    texts = TABLE.read_text().splitlines()
    by_hand, lines = False, {}
    for number, text in enumerate(texts):
        if text.startswith("#"):
            by_hand = text.startswith(BY_HAND) or (by_hand and not text.startswith(BY_ORACLE))
        elif text:
            lines[number] = parse_line(text, by_hand)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        for number, line in zip(
            lines, pool.map(lambda one: fill_in(one, Path(folder)), lines.values()), strict=True
        ):
            texts[number] = str(line)
    TABLE.write_text("\n".join(texts) + "\n")
    sys.stdout.write(f"{len(lines)} lines\n")


if __name__ == "__main__":
    main()
