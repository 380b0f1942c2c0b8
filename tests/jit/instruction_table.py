"""Reads and writes `instructions.table`: instructions with their inputs and outputs.

A line is ``address  bytes  text  inputs => outputs``; two blanks divide the columns,
items are ``name=value``. Registers that are not named are 0; all registers that an
instruction changes are among its outputs. Beside registers and CSRs the names are

- ``[80100008]=...``: memory, hexadecimal, as one number of as many bytes as it has digits;
- ``mode=U``: the privilege, M when not said; ``page=rw``: Sv39 is on and the page of
  data has these permissions; ``lr=...``: a reserved load of that address ran before;
- ``pc=...``: where it goes, if not to the instruction behind it;
- ``trap=2 tval=...``: an exception, with ``epc=...`` if not of the instruction itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tandemu.bits import mask
from tandemu.isa.instruction import Instruction
from tandemu.isa.riscv.compression import Compressed
from tandemu.isa.riscv.csr_table import csr_numbers
from tandemu.isa.riscv.disassembler import DYNAMIC, ROUNDING_MODES
from tandemu.isa.riscv.instruction_set import RV64GC
from tandemu.isa.riscv.registers import NAMES, register_number

TABLE = Path(__file__).with_name("instructions.table")
BY_HAND, BY_ORACLE = "# By hand", "# By qemu-riscv64"
MODES = {"U": 0, "S": 1, "M": 3}
_HEXADECIMAL = re.compile(r"\[([0-9a-f]+)\]")
_WORD = re.compile(r"[a-z_0-9]+")
_SHORT = 4096

Items = dict[str, int | str]


def is_float(name: str) -> bool:
    return name in NAMES["f"]


def is_integer(name: str) -> bool:
    return name in NAMES["x"]


def parse_items(text: str) -> Items:
    items: Items = {}
    for item in text.split():
        name, value = item.split("=")
        if name in ("mode", "page") or _HEXADECIMAL.fullmatch(name):
            items[name] = value
        else:
            items[name] = int(value, 0) & mask(64)
    return items


def show(name: str, value: int | str) -> str:
    """One item as the table has it."""
    if isinstance(value, str):
        return f"{name}={value}"
    signed = value - (1 << 64) if value >> 63 else value
    if is_float(name):
        return f"{name}=0x{value:016x}"
    if is_integer(name) and -_SHORT < signed < _SHORT:
        return f"{name}={signed}"
    return f"{name}={value:#x}"


@dataclass
class Line:
    address: int
    bytes: bytes | None
    text: str
    inputs: Items = field(default_factory=dict)
    outputs: Items = field(default_factory=dict)
    by_hand: bool = False

    @property
    def name(self) -> str:
        """The mnemonic, without the ordering of an atomic."""
        return re.sub(r"\.(aq|rl|aqrl)$", "", self.text.split(" ")[0])

    @property
    def word(self) -> int:
        assert self.bytes is not None
        return int.from_bytes(self.bytes, "little")

    @property
    def following(self) -> int:
        assert self.bytes is not None
        return self.address + len(self.bytes)

    def __str__(self) -> str:
        code = "?" if self.bytes is None else f"{self.word:0{2 * len(self.bytes)}x}"
        inputs = " ".join(show(*item) for item in self.inputs.items())
        outputs = " ".join(show(*item) for item in self.outputs.items())
        left = f"{self.address:08x}  {code:8}  {self.text:28}  {inputs}".rstrip()
        return f"{left} => {outputs}".rstrip()


def parse_line(text: str, by_hand: bool) -> Line:
    left, right = text.split("=>")
    address, code, instruction, *inputs = re.split(r"\s{2,}", left.strip(), maxsplit=3)
    return Line(
        int(address, 16),
        None if code == "?" else bytes.fromhex(code)[::-1],
        instruction,
        parse_items(" ".join(inputs)),
        {} if right.strip() == "?" else parse_items(right),
        by_hand,
    )


def read_table() -> list[Line]:
    lines, by_hand = [], False
    for text in TABLE.read_text().splitlines():
        if text.startswith("#"):
            by_hand = text.startswith(BY_HAND) or (by_hand and not text.startswith(BY_ORACLE))
        elif text:
            lines.append(parse_line(text, by_hand))
    return lines


def record_of(name: str) -> Instruction | Compressed:
    record = RV64GC.by_name.get(name)
    if record is not None:
        return record
    return next(one for one in RV64GC.compressed.records if one.name == name)


def assemble_text(line: Line) -> bytes:
    """The bytes of the text of *line*, through the syntax of its record."""
    name, _, rest = line.text.partition(" ")
    if name in (".4byte", ".2byte"):
        return int(rest, 0).to_bytes(int(name[1]), "little")
    record = record_of(line.name)
    syntax = record.syntax
    operands: dict[str, int] = {}
    if "rm" in _WORD.findall(syntax) and rest.count(",") < syntax.count(","):
        operands["rm"] = DYNAMIC
        syntax = syntax.removesuffix(",rm")
    order = name[len(line.name) :]
    if order:
        operands.update(aq=int("aq" in order), rl=int("rl" in order))
    words = _WORD.findall(syntax)
    pattern = _WORD.sub("\0", syntax)
    for bracket in "()":
        pattern = pattern.replace(bracket, "\\" + bracket)
    found = re.fullmatch(pattern.replace("\0", "([^,()]+)"), rest)
    assert found, f"{line.text!r} is not {syntax!r}"
    for word, value in zip(words, found.groups(), strict=True):
        operands.update(_operand(record, word, value, line.address))
    word = RV64GC.encode(record.name, operands)
    return word.to_bytes(2 if isinstance(record, Compressed) else 4, "little")


def _operand(
    record: Instruction | Compressed, word: str, value: str, address: int
) -> Mapping[str, int]:
    """The operand that *value* in the place of *word* in a syntax stands for."""
    full = RV64GC.by_name[record.expands_to] if isinstance(record, Compressed) else record
    file = full.file(word)
    if file is not None:
        return {word: register_number(value, file)}
    match word:
        case "target":
            return {"imm": int(value, 0) - address}
        case "shamt":
            return {"imm": int(value, 0)}
        case "upper":
            upper = int(value, 0) << 12
            return {"imm": upper - (1 << 32) if upper >> 31 else upper}
        case "csr":
            return {"csr": csr_numbers(64)[value]}
        case "rm":
            return {"rm": ROUNDING_MODES.index(value)}
        case "pred" | "succ":
            return {word: sum(8 >> "iorw".index(letter) for letter in value)}
        case _:
            return {word: int(value, 0)}


def destination(line: Line) -> str | None:
    """The name of the register that an instruction gives its result to."""
    decoded = RV64GC.decode(line.word)
    if decoded is None:
        return None
    file = decoded.instruction.file("rd")
    if file is None or (file == "x" and decoded.operands["rd"] == 0):
        return None
    return NAMES[file][decoded.operands["rd"]]


def memory(items: Items) -> Iterable[tuple[int, bytes]]:
    """The addresses and bytes of the memory among *items*."""
    for name, value in items.items():
        found = _HEXADECIMAL.fullmatch(name)
        if found:
            assert isinstance(value, str)
            yield int(found[1], 16), bytes.fromhex(value)[::-1]
