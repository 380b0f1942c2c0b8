"""Names of the RISC-V integer and floating-point registers.

Source: RISC-V ABIs Specification, "Integer Register Convention" and
"Floating-point Register Convention".
"""

from __future__ import annotations

from tandemu.isa.errors import IsaError

INTEGER_NAMES: tuple[str, ...] = (
    *("zero", "ra", "sp", "gp", "tp", "t0", "t1", "t2", "s0", "s1"),
    *(f"a{number}" for number in range(8)),
    *(f"s{number}" for number in range(2, 12)),
    *(f"t{number}" for number in range(3, 7)),
)
"""ABI names of x0 to x31."""

LINK_REGISTERS = (1, 5)
"""Integer registers that hold return addresses: ra, and t0 as the alternate one.

Unprivileged ISA, chapter "RV32I", "Unconditional Jumps": the hints for return-address stacks.
"""

FLOATING_NAMES: tuple[str, ...] = (
    *(f"ft{number}" for number in range(8)),
    *("fs0", "fs1"),
    *(f"fa{number}" for number in range(8)),
    *(f"fs{number}" for number in range(2, 12)),
    *(f"ft{number}" for number in range(8, 12)),
)
"""ABI names of f0 to f31."""

NAMES = {"x": INTEGER_NAMES, "f": FLOATING_NAMES}
"""The names of each register file."""

_NUMBERS: dict[str, dict[str, int]] = {
    file: {
        **{name: number for number, name in enumerate(names)},
        **{f"{file}{number}": number for number in range(32)},
    }
    for file, names in NAMES.items()
}
_NUMBERS["x"]["fp"] = 8


def register_number(name: str, file: str = "x") -> int:
    """Return the number of a register given by ABI name or as ``x7``, ``f7``.

    >>> register_number("a0"), register_number("fp"), register_number("f7", "f")
    (10, 8, 7)
    """
    number = _NUMBERS[file].get(name)
    if number is None:
        raise IsaError(
            f"no register {name!r} in file {file!r}: give an ABI name, or {file}0 to {file}31"
        )
    return number
