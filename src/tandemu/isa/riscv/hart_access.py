"""Reading and writing a hart's registers by name, from Python.

For a debugger, tests and migration. Control and status registers go through the
very rows that the guest's instructions use, without privilege, gates and locks,
run by the evaluator. The hart must be at rest.
"""

from __future__ import annotations

import ctypes
from functools import cached_property
from typing import Any

from tandemu.bits import mask
from tandemu.ir import Evaluator, Function
from tandemu.isa.effects import INTERRUPTS, MODE
from tandemu.isa.errors import IsaError
from tandemu.isa.riscv.csr import DONE, READ_ONLY, WRITE, build_csr_access
from tandemu.isa.riscv.csr_table import csr_numbers
from tandemu.isa.riscv.hart import Environment
from tandemu.isa.riscv.registers import FLOATING_NAMES, INTEGER_NAMES, NAMES, register_number


class HartRegisters:
    """The registers of harts of one kind, by name.

    The clocks of *environment* must be such that *evaluator* can run them.
    """

    def __init__(self, environment: Environment, evaluator: Evaluator | None = None) -> None:
        self._environment = environment
        self._evaluator = evaluator or Evaluator()
        self._xlen = environment.xlen
        self._csrs = csr_numbers(environment.xlen)
        self._files: dict[str, tuple[str, int]] = {}
        for file, abi_names in NAMES.items():
            for name in (*abi_names, *(f"{file}{number}" for number in range(32))):
                self._files[name] = file, register_number(name, file)
        self._files["fp"] = "x", 8

    @property
    def names(self) -> tuple[str, ...]:
        """Every register, each by one name."""
        floating = FLOATING_NAMES if self._environment.floating else ()
        return (*INTEGER_NAMES, *floating, "pc", "privilege", *self._csrs)

    @cached_property
    def _access(self) -> Function:
        return build_csr_access(self._environment, checked=False)

    def _csr(self, view: Any, name: str, value: int, operation: int) -> int:
        number = self._csrs.get(name)
        if number is None:
            raise IsaError(
                f"no register {name!r} in this RV{self._xlen} hart: "
                "give x0 to x31, f0 to f31, an ABI name, pc, privilege or the name of a CSR"
            )
        address = ctypes.addressof(view)
        status = self._evaluator.run(self._access, address, number, value, operation)
        if status != DONE:
            raise IsaError(f"register {name} cannot be written: it is read-only")
        result: int = view.csr_value
        return result

    def read_register(self, view: Any, name: str) -> int:
        """Return register *name* of the live structure *view*; `IsaError` if there is none."""
        if name in self._files:
            file, number = self._files[name]
            value: int = getattr(view, file)[number]
            return value
        if name in ("pc", "privilege"):
            value = getattr(view, name)
            return value
        return self._csr(view, name, 0, READ_ONLY)

    def write_register(self, view: Any, name: str, value: int) -> None:
        """Write register *name*; bits that do not exist are dropped, x0 stays zero.

        What the write asks of the engine is left in ``effects``.
        """
        if name in self._files:
            file, number = self._files[name]
            bits = 64 if file == "f" else self._xlen
            if (file, number) != ("x", 0):
                getattr(view, file)[number] = value & mask(bits)
        elif name == "pc":
            view.pc = value & mask(self._xlen) & ~1
        elif name == "privilege":
            if value not in (0, 1, 3):
                raise IsaError(f"privilege {value}: must be 0 (U), 1 (S) or 3 (M)")
            view.privilege = value
            view.effects |= MODE | INTERRUPTS
        else:
            self._csr(view, name, value & mask(self._xlen), WRITE)
