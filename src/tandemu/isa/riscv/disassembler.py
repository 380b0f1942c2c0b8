"""Instructions as text and back, from the records.

The text is that of GNU objdump with a space for the tab: ABI register names,
targets of jumps as absolute addresses. Without aliases it is objdump's
``-M no-aliases``. Unlike older versions of it, an immediate form keeps its ``i``.

>>> disassemble(0x00A58513, pc=0), disassemble(0x852E, pc=0)
('addi a0,a1,10', 'mv a0,a1')
>>> disassemble(0x852E, pc=0, aliases=False), disassemble(0, pc=0)
('c.mv a0,a1', '.2byte 0x0')
>>> hex(assemble("addi", rd="a0", rs1="a1", imm=10))
'0xa58513'
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from tandemu.bits import mask
from tandemu.isa.decoder import Decoded
from tandemu.isa.errors import IsaError
from tandemu.isa.instruction import Instruction
from tandemu.isa.riscv.aliases import alias_for
from tandemu.isa.riscv.csr_table import csr_numbers
from tandemu.isa.riscv.instruction_set import RV32GC, RV64GC, InstructionSet
from tandemu.isa.riscv.registers import NAMES, register_number

ROUNDING_MODES = ("rne", "rtz", "rdn", "rup", "rmm", "5", "6", "dyn")
"""Names of the values of the rounding-mode field."""
DYNAMIC = 7

_WORD = re.compile(r"[a-z_0-9]+")


@dataclass(frozen=True)
class Disassembler:
    """Text for the instructions of one set. *csr_names* are printed for CSR numbers."""

    instructions: InstructionSet
    csr_names: Mapping[int, str] = field(default_factory=dict)

    def text(self, word: int, pc: int, aliases: bool = True) -> str:
        """Return the instruction at address *pc* as text.

        *word* holds 32 bits; only the low 16 count if they are a compressed
        instruction. What is illegal comes as ``.4byte`` or ``.2byte``.
        """
        decoded = self.instructions.decode(word)
        if decoded is None:
            long = word & 3 == 3
            return f".{4 if long else 2}byte {word & mask(32 if long else 16):#x}"
        one = decoded.instruction
        operands = decoded.operands
        name, syntax = one.name, one.syntax
        if aliases:
            alias = alias_for(one.name, operands)
            if alias is not None:
                name, syntax = alias.name, alias.syntax
        elif decoded.length == 2:
            table = self.instructions.compressed
            short = table.records[table.form[word & 0xFFFF] - 1]
            name, syntax = short.name, short.syntax
        if operands.get("rm") == DYNAMIC:
            syntax = syntax.removesuffix(",rm")
        suffix = ("." if operands.get("aq") or operands.get("rl") else "") + "".join(
            order for order in ("aq", "rl") if operands.get(order)
        )
        shown = _WORD.sub(lambda found: self._show(found[0], decoded, operands, pc), syntax)
        return f"{name}{suffix} {shown}" if shown else name + suffix

    def _show(self, name: str, decoded: Decoded, operands: Mapping[str, int], pc: int) -> str:
        """Return operand *name* of a syntax as text."""
        file = decoded.instruction.file(name)
        if file is not None:
            return NAMES[file][operands[name]]
        match name:
            case "target":
                return hex((pc + operands["imm"]) & mask(self.instructions.xlen))
            case "shamt":
                return hex(operands["imm"])
            case "upper":
                return hex(operands["imm"] >> 12 & mask(20))
            case "csr":
                return self.csr_names.get(operands["csr"], hex(operands["csr"]))
            case "rm":
                return ROUNDING_MODES[operands["rm"]]
            case "pred" | "succ":
                letters = zip("iorw", (8, 4, 2, 1), strict=True)
                return "".join(one for one, bit in letters if operands[name] & bit) or "unknown"
            case _:
                return str(operands[name])


def _disassembler(instructions: InstructionSet) -> Disassembler:
    numbers = csr_numbers(instructions.xlen)
    return Disassembler(instructions, {number: name for name, number in numbers.items()})


_DISASSEMBLERS = {one.xlen: _disassembler(one) for one in (RV64GC, RV32GC)}


def disassemble(word: int, pc: int, xlen: int = 64, aliases: bool = True) -> str:
    """Return the instruction *word* at address *pc* as text; see `Disassembler.text`."""
    return _DISASSEMBLERS[xlen].text(word, pc, aliases)


def assemble(name: str, /, xlen: int = 64, **operands: int | str) -> int:
    """Return the word of instruction *name*: 32 bits, or 16 if it is a ``c.`` one.

    Operands go by the names of the record's fields, ``imm`` is the immediate
    (of jumps and branches: the distance; of ``lui``: the value, low 12 bits
    zero). Registers may be numbers or names, CSRs too; what is left out is zero, a
    rounding mode that makes a difference dynamic. Raises `IsaError` for what does not exist or fit.
    """
    instructions = RV64GC if xlen == 64 else RV32GC
    record = instructions.by_name.get(name) or _expanded(instructions, name)
    values: dict[str, int] = {}
    if name == record.name and record.syntax.endswith(",rm"):
        values["rm"] = DYNAMIC
    for operand, value in operands.items():
        if isinstance(value, int):
            values[operand] = value
        elif operand == "csr":
            values[operand] = _csr_number(value, xlen)
        else:
            file = record.file(operand)
            if file is None:
                raise IsaError(f"{name}: operand {operand} is not a register, so not {value!r}")
            values[operand] = register_number(value, file)
    return instructions.encode(name, values)


def _csr_number(name: str, xlen: int) -> int:
    number = csr_numbers(xlen).get(name)
    if number is None:
        raise IsaError(f"no CSR {name!r} in RV{xlen}: check the spelling, or give its number")
    return number


def _expanded(instructions: InstructionSet, name: str) -> Instruction:
    """Return the record that the compressed instruction *name* expands to."""
    for short in instructions.compressed.records:
        if short.name == name:
            return instructions.by_name[short.expands_to]
    raise IsaError(f"no instruction {name!r}: check the spelling, and whether RV32 has it")
