"""Assembly aliases: the names by which instructions with certain operands go.

RISC-V Assembly Programmer's Manual, "Pseudoinstructions", as GNU binutils print
them. If several apply, the one with the most conditions is meant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Alias:
    """Instruction *of* is called *name* if its operands meet all *conditions*.

    A condition is a value, or the name of another operand that must be equal.
    """

    name: str
    of: str
    conditions: Mapping[str, int | str]
    syntax: str = ""

    def applies(self, operands: Mapping[str, int]) -> bool:
        """Say whether an instruction with *operands* goes by this name."""
        return all(
            operands[name] == (operands[value] if isinstance(value, str) else value)
            for name, value in self.conditions.items()
        )


def _read(name: str, csr: int) -> tuple[Alias, Alias]:
    """A CSR's own name for reading it, into x0 too."""
    conditions = {"csr": csr, "rs1": 0}
    return (
        Alias(name, "csrrs", conditions, "rd"),
        Alias(name, "csrrs", {**conditions, "rd": 0}, "rd"),
    )


def _float_csr(name: str, csr: int) -> tuple[Alias, ...]:
    return (
        *_read(f"fr{name}", csr),
        Alias(f"fs{name}", "csrrw", {"csr": csr}, "rd,rs1"),
        Alias(f"fs{name}", "csrrw", {"csr": csr, "rd": 0}, "rs1"),
    )


def _signs(suffix: str) -> tuple[Alias, Alias, Alias]:
    same = {"rs2": "rs1"}
    return (
        Alias(f"fmv.{suffix}", f"fsgnj.{suffix}", same, "rd,rs1"),
        Alias(f"fneg.{suffix}", f"fsgnjn.{suffix}", same, "rd,rs1"),
        Alias(f"fabs.{suffix}", f"fsgnjx.{suffix}", same, "rd,rs1"),
    )


ALIASES = (
    Alias("nop", "addi", {"rd": 0, "rs1": 0, "imm": 0}),
    Alias("li", "addi", {"rs1": 0}, "rd,imm"),
    Alias("li", "addi", {"rs1": 0, "imm": 0}, "rd,imm"),
    Alias("mv", "addi", {"imm": 0}, "rd,rs1"),
    Alias("mv", "add", {"rs1": 0}, "rd,rs2"),
    Alias("sext.w", "addiw", {"imm": 0}, "rd,rs1"),
    Alias("zext.w", "add.uw", {"rs2": 0}, "rd,rs1"),
    Alias("zext.b", "andi", {"imm": 255}, "rd,rs1"),
    Alias("not", "xori", {"imm": -1}, "rd,rs1"),
    Alias("neg", "sub", {"rs1": 0}, "rd,rs2"),
    Alias("negw", "subw", {"rs1": 0}, "rd,rs2"),
    Alias("seqz", "sltiu", {"imm": 1}, "rd,rs1"),
    Alias("snez", "sltu", {"rs1": 0}, "rd,rs2"),
    Alias("sltz", "slt", {"rs2": 0}, "rd,rs1"),
    Alias("sgtz", "slt", {"rs1": 0}, "rd,rs2"),
    Alias("sgtz", "slt", {"rs1": 0, "rs2": 0}, "rd,rs2"),
    Alias("beqz", "beq", {"rs2": 0}, "rs1,target"),
    Alias("bnez", "bne", {"rs2": 0}, "rs1,target"),
    Alias("blez", "bge", {"rs1": 0}, "rs2,target"),
    Alias("bgez", "bge", {"rs2": 0}, "rs1,target"),
    Alias("bgez", "bge", {"rs1": 0, "rs2": 0}, "rs1,target"),
    Alias("bltz", "blt", {"rs2": 0}, "rs1,target"),
    Alias("bgtz", "blt", {"rs1": 0}, "rs2,target"),
    Alias("bltz", "blt", {"rs1": 0, "rs2": 0}, "rs1,target"),
    Alias("j", "jal", {"rd": 0}, "target"),
    Alias("jal", "jal", {"rd": 1}, "target"),
    Alias("ret", "jalr", {"rd": 0, "rs1": 1, "imm": 0}),
    Alias("jr", "jalr", {"rd": 0, "imm": 0}, "rs1"),
    Alias("jr", "jalr", {"rd": 0}, "imm(rs1)"),
    Alias("jalr", "jalr", {"rd": 1, "imm": 0}, "rs1"),
    Alias("jalr", "jalr", {"rd": 1}, "imm(rs1)"),
    Alias("fence", "fence", {"pred": 15, "succ": 15}),
    Alias("sfence.vma", "sfence.vma", {"rs2": 0}, "rs1"),
    Alias("sfence.vma", "sfence.vma", {"rs1": 0, "rs2": 0}),
    Alias("csrr", "csrrs", {"rs1": 0}, "rd,csr"),
    Alias("csrw", "csrrw", {"rd": 0}, "csr,rs1"),
    Alias("csrs", "csrrs", {"rd": 0}, "csr,rs1"),
    Alias("csrr", "csrrs", {"rd": 0, "rs1": 0}, "rd,csr"),
    Alias("csrc", "csrrc", {"rd": 0}, "csr,rs1"),
    Alias("csrwi", "csrrwi", {"rd": 0}, "csr,zimm"),
    Alias("csrsi", "csrrsi", {"rd": 0}, "csr,zimm"),
    Alias("csrci", "csrrci", {"rd": 0}, "csr,zimm"),
    Alias("unimp", "csrrw", {"rd": 0, "csr": 0xC00, "rs1": 0}),
    *_read("rdcycle", 0xC00),
    *_read("rdtime", 0xC01),
    *_read("rdinstret", 0xC02),
    *_read("rdcycleh", 0xC80),
    *_read("rdtimeh", 0xC81),
    *_read("rdinstreth", 0xC82),
    *_float_csr("flags", 1),
    *_float_csr("rm", 2),
    *_float_csr("csr", 3),
    *_signs("s"),
    *_signs("d"),
)


def _by_instruction() -> dict[str, tuple[Alias, ...]]:
    """Return the aliases of every instruction, those with the most conditions first."""
    table: dict[str, tuple[Alias, ...]] = {}
    for alias in sorted(ALIASES, key=lambda alias: -len(alias.conditions)):
        table[alias.of] = (*table.get(alias.of, ()), alias)
    return table


_TABLE = _by_instruction()


def alias_for(instruction: str, operands: Mapping[str, int]) -> Alias | None:
    """Return the alias that *instruction* goes by with these *operands*, if any."""
    return next((alias for alias in _TABLE.get(instruction, ()) if alias.applies(operands)), None)
