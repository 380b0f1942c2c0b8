"""What a translator makes use of in RISC-V's instructions, by mnemonic.

An instruction that is not here is translated all the same. Which are hot is a matter of
measurement; an extension whose instructions are none of these has no line here.
"""

from __future__ import annotations

from collections.abc import Mapping

from tandemu.isa.instruction import Trait

_NAMES: Mapping[Trait, tuple[str, ...]] = {
    Trait.HOT: (
        *("add", "sub", "sll", "slt", "sltu", "xor", "srl", "sra", "or", "and", "mul"),
        *("addw", "subw", "sllw", "srlw", "sraw", "mulw"),
        *("addi", "slti", "sltiu", "xori", "ori", "andi", "slli", "srli", "srai"),
        *("addiw", "slliw", "srliw", "sraiw"),
        *("lb", "lh", "lw", "ld", "lbu", "lhu", "lwu", "sb", "sh", "sw", "sd"),
        *("beq", "bne", "blt", "bge", "bltu", "bgeu", "jalr"),
        *("sh1add", "sh2add", "sh3add", "add.uw"),
    ),
    Trait.CONSTANT: ("lui",),
    Trait.PC_RELATIVE: ("auipc",),
    Trait.SUM: ("addi", "add"),
    Trait.FOLDS_WITH_ZERO: ("bltu", "bgeu"),
    Trait.EXACT: ("fcvt.d.s", "fcvt.d.w", "fcvt.d.wu"),
    Trait.RESUMES: (
        *("csrrw", "csrrs", "csrrc", "csrrwi", "csrrsi", "csrrci"),
        *("cbo.inval", "cbo.clean", "cbo.flush"),
    ),
    Trait.ONLY_READS: ("lr.w", "lr.d"),
    Trait.HOST_ATOMIC: tuple(
        f"{name}.{suffix}" for name in ("lr", "sc", "amoadd", "amoswap") for suffix in "wd"
    ),
}

NAMES = frozenset(name for names in _NAMES.values() for name in names)
"""Every mnemonic here."""


def traits(name: str) -> frozenset[Trait]:
    """The traits of the instruction called *name*."""
    return frozenset(trait for trait, names in _NAMES.items() if name in names)
