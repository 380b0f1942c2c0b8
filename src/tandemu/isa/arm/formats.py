"""The formats of A64 instructions, written as the manual draws them.

A record's pattern is its 32 bits, the highest first: ``0`` and ``1`` are fixed, a letter is an
operand. Letters of registers (Arm ARM, C1.2.5): ``d`` Rd or Rt that is written, ``t`` Rt or Rd
that is read, ``n`` Rn, ``m`` Rm or Rs, ``a`` Ra or Rt2; ``D`` and ``N`` are the same where 31 is
the stack pointer. ``v``, ``x``, ``w``, ``u``, ``z`` are d, t, n, m and a among the vector
registers. ``i`` is the immediate; any other letter is a number that goes by that letter.

The word that the decoder sees has 64 bits. BL, whose immediate leaves no room for the register
that it writes, has the immediate in the upper half (`isa.arm.fetch`).
"""

from __future__ import annotations

from collections.abc import Mapping

from tandemu.isa.arm.state import STACK, ZERO
from tandemu.isa.decoder import KeyLayout
from tandemu.isa.errors import IsaError
from tandemu.isa.guest import Place
from tandemu.isa.instruction import Field, ImmediateFormat, Instruction, Kind, Semantics, Trait

PLACES = {
    "rd": Place(0, 5),
    "rs3": Place(0, 5),
    "rs1": Place(5, 5),
    "rs2": Place(16, 5),
    "rd2": Place(10, 5),
}
WORD_BITS = 64
KEY_LAYOUT = KeyLayout(primary=((10, 6, 0), (21, 11, 6)), secondary=(16, 5))
"""Most classes are told by bits 31 to 21 and 15 to 10; bits 20 to 16 hold a second opcode."""

_OR_STACK = (ZERO, STACK)


def _register(name: str, file: str = "x", instead: tuple[int, int] | None = None) -> Field:
    return Field(name, *PLACES[name], file, instead=instead)


_REGISTERS = {
    "d": _register("rd"),
    "D": _register("rd", instead=_OR_STACK),
    "t": _register("rs3"),
    "n": _register("rs1"),
    "N": _register("rs1", instead=_OR_STACK),
    "m": _register("rs2"),
    "a": _register("rd2"),
    "v": _register("rd", "v"),
    "x": _register("rs3", "v"),
    "w": _register("rs1", "v"),
    "u": _register("rs2", "v"),
    "z": _register("rd2", "v"),
}
LINK_FIELD = _REGISTERS["d"]
HOT = frozenset({Trait.HOT})
NO_TRAITS: frozenset[Trait] = frozenset()


def record(
    name: str,
    pattern: str,
    semantics: Semantics,
    *,
    kind: Kind = Kind.STRAIGHT,
    immediate: ImmediateFormat | None = None,
    scale: int = 0,
    signed: bool = False,
    access: int = 0,
    traits: frozenset[Trait] = NO_TRAITS,
    floating: bool = False,
    reserved: Mapping[str, tuple[int, ...]] | None = None,
    extension: str = "base",
    specialises: str | None = None,
) -> Instruction:
    """The record of an instruction; *immediate* if its bits are not simply those of the letter
    ``i``, *signed* and shifted left by *scale*. *reserved*: the values of numbers that make it
    undefined."""
    bits = pattern.replace(" ", "")
    if len(bits) != 32:
        raise IsaError(f"instruction {name}: its pattern has {len(bits)} bits, must have 32")
    fixed = sum(1 << 31 - at for at, letter in enumerate(bits) if letter in "01")
    match = sum(1 << 31 - at for at, letter in enumerate(bits) if letter == "1")
    fields: list[Field] = []
    for letter in dict.fromkeys(bits):
        if letter in "01":
            continue
        width = bits.count(letter)
        low = 31 - bits.rindex(letter)
        if letter == "i":
            if immediate is None:
                at = bits.index(letter)
                if bits[at : at + width] != letter * width:
                    raise IsaError(f"instruction {name}: its immediate is in pieces: give a format")
                kind_name = f"{'s' if signed else 'u'}{width}<<{scale}@{low}"
                immediate = ImmediateFormat(kind_name, signed, ((low, width, scale),))
        elif letter in _REGISTERS:
            fields.append(_REGISTERS[letter])
        else:
            fields.append(Field(letter, low, width, reserved=(reserved or {}).get(letter, ())))
    return Instruction(
        name=name,
        extension=extension,
        xlens=frozenset({64}),
        mask=fixed | 0xFFFFFFFF00000000,
        match=match,
        fields=tuple(fields),
        immediate=immediate,
        syntax=",".join([*(field.name for field in fields), *(("imm",) if immediate else ())]),
        kind=kind,
        floating=floating,
        access=access,
        semantics=semantics,
        specialises=specialises,
        traits=traits,
        bits=WORD_BITS,
    )
