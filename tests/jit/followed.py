"""Runs of one program held against each other, instruction by instruction.

A run with regions goes first, cut into slices, and stops where it happens to stop; there an
interrupt may become pending. An oracle (the evaluator in Python, or the native interpreter)
then steps through the same program and has the same interrupts at the same instructions: each
stop has to be a moment of its run, with the same registers. So has each stop of a run with
stencils alone, which single-steps to where the interrupts are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from tandemu.accel import Exit, MmioRead, MmioWrite, Stopped
from tandemu.isa.catalogue import find_isa
from tandemu.jit.regions.graph import GuestInstruction
from tandemu.jit.shared.layout import EXIT_READ
from tests.jit.random_program import RandomProgram
from tests.jit.small_machine import BASE, DATA, END, PAGE, SmallMachine, State, program, software

SHORTEST = 64
"""A slice holds a whole block at least."""
_WINDOW = 0x1000


class Moment(NamedTuple):
    """A place between two instructions: how many have retired, and where."""

    instructions: int
    pc: int


class Stop(NamedTuple):
    """Where a run stopped, and what it had in its registers."""

    moment: Moment
    registers: tuple[int, ...]


class All(NamedTuple):
    """All there is."""

    state: State
    memory: bytes


class Cut(NamedTuple):
    """How a run is cut."""

    length: int
    """Instructions in a slice."""
    least: int
    """The run stops at the first end of a slice after so many instructions."""
    interrupt: int
    """The line of an interrupt that becomes pending there; 0: none does."""


class Run:
    """A machine that runs a program, and the devices it has."""

    def __init__(self, m: SmallMachine, program: RandomProgram, limit: int) -> None:
        """*limit*: more instructions and traps than it may take."""
        self.m, self.program, self._limit = m, program, limit
        program.prepare(m)
        # No optimiser but the test's own.
        m.vm.cache.state.hot_threshold = 0
        self.accesses: list[Exit] = []
        self.stops: list[Stop] = []
        self.interrupts: dict[Moment, int] = {}
        self.states: dict[Moment, All] = {}
        """What there was when an interrupt became pending."""
        self.ended = False
        self.final: All | None = None

    @property
    def moment(self) -> Moment:
        return Moment(self.m.instructions, self.m.cpu.pc)

    def registers(self) -> tuple[int, ...]:
        cpu = self.m.cpu
        return (*cpu.x[0:32], *cpu.f[0:32])

    def all(self) -> All:
        return All(self.m.state(_WINDOW, data=DATA), bytes(self.m.ram.view))

    def answer(self, leaving: Exit) -> None:
        """Be the devices: the same for all runs."""
        assert isinstance(leaving, MmioRead | MmioWrite), leaving
        self.accesses.append(leaving)
        if leaving.address == END:
            self.ended, self.final = True, self.all()
        elif leaving.address // PAGE != END // PAGE:
            self.m.vcpu.complete(None)
        elif isinstance(leaving, MmioRead):
            number = leaving.address * 0x9E3779B97F4A7C15 + len(self.accesses)
            self.m.vcpu.complete(number & (1 << 8 * leaving.size) - 1)
        else:
            self.m.vcpu.complete(0)

    def interrupt(self, line: int) -> None:
        """Have an interrupt pending from here on."""
        self.interrupts[self.moment] = line
        self.states[self.moment] = self.all()
        self.m.vcpu.set_interrupt(line, True)

    def slices(self, length: int, least: int = 1) -> None:
        """Run translated code for *least* instructions in slices, or until an access leaves."""
        m = self.m
        m.cpu.slice_length = length
        m.vcpu.limit_instructions(least)
        leaving = m.vcpu.run()
        if not isinstance(leaving, Stopped):
            self.answer(leaving)
            self.step()
        if not self.ended:
            self.stops.append(Stop(self.moment, self.registers()))
        self._limit -= 1
        assert self._limit, f"it does not end: {m.state()}"

    def step(self) -> None:
        """One instruction, trap or interrupt, or the end."""
        while not self.ended:
            leaving = self.m.vcpu.step()
            if isinstance(leaving, Stopped):
                return
            self.answer(leaving)

    def evaluate(self) -> None:
        """The same by the evaluator."""
        m, interpreter = self.m, software(self.m.xlen)
        cpu, evaluator = m.cpu, interpreter.evaluator
        privileged = interpreter.program.system.privileged
        number = evaluator.run(privileged.pending_interrupt, m.vcpu.address)
        if number is not None and not number >> 63:
            cause = number | 1 << m.xlen - 1
            evaluator.run(privileged.take_trap, m.vcpu.address, cause, 0)
            return
        while not self.ended and not m.evaluate():
            address, size = cpu.exit_address, cpu.exit_size
            if cpu.exit_kind == EXIT_READ:
                self.answer(MmioRead(address, size))
            else:
                self.answer(MmioWrite(address, size, cpu.exit_value & (1 << 8 * size) - 1))

    def run_freely(self, cuts: Sequence[Cut], touch: Callable[[], None]) -> None:
        """Run in slices; interrupts come where it stops. At each stop there is a *touch*."""
        turn = 0
        while not self.ended:
            cut = cuts[turn % len(cuts)]
            self.slices(cut.length, cut.least)
            if self.ended:
                return
            if turn < len(cuts) and cut.interrupt:
                self.interrupt(cut.interrupt)
            turn += 1
            touch()

    def run_to(self, moments: dict[Moment, int], lengths: Sequence[int]) -> None:
        """Run in slices that end before *moments*, when interrupts come; they are in order."""
        turn = 0
        for moment, line in moments.items():
            while not self.ended and moment.instructions - self.m.instructions > SHORTEST:
                left = moment.instructions - self.m.instructions - 1
                self.slices(min(lengths[turn % len(lengths)], left))
                turn += 1
            while not self.ended and self.moment != moment:
                assert self.m.instructions <= moment.instructions, f"not at {moment}"
                self.step()
            if self.ended:
                return
            self.interrupt(line)
        while not self.ended:
            self.slices(lengths[turn % len(lengths)])
            turn += 1


class _Step(NamedTuple):
    pc: int
    registers: tuple[int, ...]
    word: int


class Oracle(Run):
    """A run, one instruction at a time, that remembers every one of them."""

    def __init__(
        self,
        m: SmallMachine,
        program: RandomProgram,
        interrupts: dict[Moment, int],
        *,
        evaluated: bool,
        limit: int,
    ) -> None:
        super().__init__(m, program, limit)
        self._steps: list[_Step] = []
        self._numbers: dict[Moment, int] = {}
        advance = self.evaluate if evaluated else self.step
        while not self.ended:
            assert len(self._steps) < limit, f"it does not end: {m.state()}"
            self._note()
            if self.moment in interrupts and self.moment not in self.interrupts:
                self.interrupt(interrupts[self.moment])
            advance()
        self._note()
        assert self.interrupts == interrupts

    @property
    def instructions(self) -> int:
        """How many it took."""
        return len(self._steps)

    def _note(self) -> None:
        pc = self.m.cpu.pc
        self._numbers[self.moment] = len(self._steps)
        self._steps.append(_Step(pc, self.registers(), self._word(pc)))

    def _word(self, pc: int) -> int:
        """The bytes at *pc*; anything if there are none."""
        places = [self.program.physical(pc + 2 * half) - BASE for half in range(2)]
        ram = self.m.ram.view
        return int.from_bytes(
            b"".join(bytes(ram[at : at + 2]) for at in places if at >= 0), "little"
        )

    def check(self, run: Run) -> None:
        """*run* stopped where this one came by, and left behind the same."""
        for stop in run.stops:
            assert stop.moment in self._numbers, f"never at {stop.moment}, {run.m.state()}"
            self._check_registers(stop)
        assert run.interrupts == self.interrupts
        for moment, there in run.states.items():
            self._check_all(there, self.states[moment], at_end=False)
        assert run.final is not None and self.final is not None
        self._check_all(run.final, self.final, at_end=True)
        assert run.accesses == self.accesses

    def _check_all(self, found: All, expected: All, *, at_end: bool) -> None:
        state, wanted = found.state, expected.state
        if found.memory != expected.memory:
            places = range(len(found.memory))
            differ = next(at for at in places if found.memory[at] != expected.memory[at])
            raise AssertionError(f"memory differs at {BASE + differ:#x}: {state}, not {wanted}")
        if not at_end:
            self._check_registers(Stop(Moment(state.instructions, state.pc), (*state.x, *state.f)))
            assert (state.csrs, state.fflags) == (wanted.csrs, wanted.fflags)
        else:
            assert state == wanted, f"{state}, not {wanted}"

    def _check_registers(self, stop: Stop) -> None:
        number = self._numbers[stop.moment]
        expected = self._steps[number].registers
        for register, value in enumerate(stop.registers):
            if value != expected[register]:
                assert self._is_overwritten(number, register), (
                    f"at {stop.moment} register {register} is {value:#x}, "
                    f"not {expected[register]:#x}"
                )

    def _is_overwritten(self, number: int, register: int) -> bool:
        """Whether *register* is written, and not read before, from a step on.

        A region that stops in a loop owes no more (ARCHITECTURE.md, "The life of a region").
        """
        isa = find_isa(f"riscv{self.m.xlen}")
        instructions = program(self.m.xlen).instructions
        for step in self._steps[number:-1]:
            decoded = instructions.decode(step.word)
            if decoded is not None:
                record, operands = decoded.instruction, decoded.operands
                one = GuestInstruction(isa, step.pc, 4, record, 0, 0, operands, True)
                if register in one.sources:
                    return False
                if register in one.results:
                    return True
        return False
