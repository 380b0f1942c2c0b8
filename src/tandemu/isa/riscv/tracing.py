"""What RISC-V's semantics ask of a context, by the names that they use.

`Operands` is mixed into the engine's contexts (`isa.guest.Guest.bind`): it has the properties
that `isa.riscv.context.Context`, `floating.FloatingContext`, `csr.CsrContext` and
`privileged.SystemContext` ask for, in terms of `isa.tracing.OperandContext`.
"""

from __future__ import annotations

from typing import Any

from tandemu.ir import F64, I64, I, Value
from tandemu.isa.riscv.floating import canonical


class Operands:
    """RISC-V's names for operands."""

    @property
    def rs1(self: Any) -> Value:
        return self.read("rs1")  # type: ignore[no-any-return]

    @property
    def rs2(self: Any) -> Value:
        return self.read("rs2")  # type: ignore[no-any-return]

    fs1, fs2 = rs1, rs2

    @property
    def fs3(self: Any) -> Value:
        return self.read("rs3")  # type: ignore[no-any-return]

    def _set_rd(self: Any, value: Value | int) -> None:
        self.write("rd", value)

    rd = fd = property(None, _set_rd)

    @property
    def rm(self: Any) -> Value:
        return self.field("rm")  # type: ignore[no-any-return]

    @property
    def csr(self: Any) -> Value:
        return self.field("csr")  # type: ignore[no-any-return]

    @property
    def zimm(self: Any) -> Value:
        return self.field("zimm").resize(I(self.xlen))  # type: ignore[no-any-return]

    @property
    def rs1_index(self: Any) -> Value:
        return self.field("rs1")  # type: ignore[no-any-return]

    @property
    def rs2_index(self: Any) -> Value:
        return self.field("rs2")  # type: ignore[no-any-return]

    @property
    def firmware(self: Any) -> bool | Value:
        return self.hart.firmware_calls != 0 if self.answers_firmware else False

    def number(self: Any, index: int) -> Value:
        """Floating source register *index* as a double, for arithmetic."""
        if self.keeps_unsettled:
            return self.unsettled(f"rs{index}")  # type: ignore[no-any-return]
        pattern: Value = self.read(f"rs{index}")
        return pattern.bitcast(F64)

    def set_number(self: Any, value: Value) -> None:
        """Write the double *value*, the result of arithmetic, to `fd`."""
        if self.keeps_unsettled:
            self.write_unsettled("rd", value)
        else:
            self.write("rd", canonical(self.ir, value).bitcast(I64))
