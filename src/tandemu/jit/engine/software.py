"""The slow way: instructions and registers by the evaluator.

Hardware does not round to nearest with ties away from zero; an instruction that
asks for it is carried out here. Tests use the same object as their oracle.
"""

from __future__ import annotations

import ctypes
import time
from functools import cache, cached_property
from typing import Any

from tandemu.ir import Evaluator
from tandemu.ir.softfloat import environment
from tandemu.isa.architecture import Isa
from tandemu.isa.catalogue import find_isa
from tandemu.isa.guest import Registers
from tandemu.jit.engine.generate import Program
from tandemu.jit.memory.routines import STATUS_DONE, STATUS_TRAP


def _clock_gettime(_clock: int, result: int) -> int:
    """The one external function of the programs, with the host's clock."""
    seconds, nanoseconds = divmod(time.monotonic_ns(), 1_000_000_000)
    timespec = (ctypes.c_int64 * 2).from_address(result)
    timespec[0], timespec[1] = seconds, nanoseconds
    return 0


class SoftwareInterpreter:
    """Runs single instructions of one instruction set in Python."""

    def __init__(self, isa: Isa) -> None:
        self.program = Program(isa)
        self.evaluator = Evaluator(externals={"clock_gettime": _clock_gettime})

    @cached_property
    def registers(self) -> Registers:
        """Registers by name."""
        return self.program.system.registers(self.evaluator)

    def interpret(self, cpu: Any, address: int, form: int, word: int, raw: int, next: int) -> int:
        """Carry out one instruction at ``cpu.pc``; its `STATUS_*`."""
        system = self.program.system
        environment.rounding = system.software_rounding(cpu)
        environment.flags = 0
        function = self.program.software_interpreter
        status = self.evaluator.run(function, address, form, word, raw, cpu.pc, next)
        system.software_flags(cpu, environment.flags)
        # It is this thread's: what others evaluate begins as usual.
        environment.rounding = environment.flags = 0
        assert status is not None
        return status

    def finish_instruction(self, cpu: Any, address: int) -> None:
        """Carry out the instruction whose operands stand in the ``software_`` fields."""
        status = self.interpret(
            cpu,
            address,
            cpu.software_form,
            cpu.software_word,
            cpu.software_raw,
            cpu.software_next,
        )
        if status == STATUS_DONE:
            cpu.pc = cpu.next_pc
            cpu.instructions += 1
        elif status == STATUS_TRAP:
            self.evaluator.run(self.program.trap, address)


@cache
def software_interpreter(name: str) -> SoftwareInterpreter:
    """The one of this process for the architecture *name*."""
    return SoftwareInterpreter(find_isa(name))
