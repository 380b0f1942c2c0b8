"""How an instruction's operands are bound when it becomes part of a region.

The same semantic functions as for stencils and interpreter, traced with operands that
are known: immediates are constants, registers are values. A register's value lives in
a variable between blocks and in a Python dictionary within one; memory is brought up
to date where somebody else may look: where the region is left and, in a program, whose
accesses the host may refuse at any time, before each access.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from tandemu.bits import Layout, mask, sign_extend
from tandemu.ir import F64, I1, I32, I64, Builder, Constant, I, IrError, Local, Undefined, V, Value
from tandemu.ir.values import emit, emit_effect
from tandemu.isa.architecture import Isa, RegisterFile
from tandemu.isa.guest import RESULTS, register_type
from tandemu.isa.instruction import Kind
from tandemu.jit.memory.jumps import jump_cache, jump_entry
from tandemu.jit.memory.routines import READ, WRITE
from tandemu.jit.memory.tlb import tlb_entry
from tandemu.jit.regions.graph import GuestBlock, GuestInstruction
from tandemu.jit.regions.request import RegionKind
from tandemu.jit.shared.convention import PINNED, tail_operands
from tandemu.jit.shared.layout import JUMP_ENTRY, SITE, TLB_ENTRY
from tandemu.jit.translate.contexts import conditional, reserve
from tandemu.memory.layout import PAGE_SIZE

OWN_STORE = 1 << 20
"""The mark of stores that are in order among a program's accesses and never refused."""
_NARROW_BITS = 32


def narrow_part(value: Value) -> Value | None:
    """The 32 bits that the 64 of *value* are the sign extension of, if that is known."""
    if value.type != I64:
        return None
    if isinstance(value, Constant):
        fits = sign_extend(value.value, _NARROW_BITS) == value.signed
        return Constant(I32, value.value) if fits else None
    if value.narrow is not None and value.narrow.type.bits <= _NARROW_BITS:
        return value.narrow.sext(I32)
    if value.zero_extended is not None and value.zero_extended < _NARROW_BITS:
        return value.trunc(I32)
    return None


class RegionBuilder(Builder):
    """Builds a region's function: none of its stores is one that LLVM may reason about.

    Over such stores an assertion of its global value numbering fails at times, and the
    compiler's process ends. There is nothing to be gained from them: nothing reads them here.
    """

    def store(self, pointer: Value, value: Value, *, atomic: bool = False) -> None:
        emit_effect("atomic_store" if atomic else "unordered_store", pointer, value)


class Registers:
    """The guest's registers in a region being built."""

    def __init__(
        self,
        builder: Builder,
        layout: Layout,
        isa: Isa,
        used: Iterable[int],
        narrow: Iterable[int] = (),
        *,
        lazy: bool = False,
        pinned: Sequence[int] | None = None,
    ) -> None:
        """*used*: the registers that the region reads or writes; *narrow*: those of them that
        hold the sign extension of 32 bits somewhere (`narrow`). *lazy*: doubles that are not
        canonical go on from block to block, where leaving the region is rare. *pinned*: the
        registers that are handed over, by default all that the guest pins; the others are in
        memory."""
        pinned = isa.state.pinned if pinned is None else pinned
        self.ir, self.layout, self._isa = builder, layout, isa
        self._settle = isa.guest.settle
        self.values: dict[int, Value] = {}
        """What registers hold here, as far as this block has read or written them."""
        self.unsettled_values: dict[int, Value] = {}
        """Doubles that arithmetic gave, which are not canonical yet should they be NaNs."""
        self.pending: set[int] = set()
        """Registers whose copy in memory may be old here."""
        self.variables = {
            register: builder.variable(self._type(register))
            for register in sorted(set(used) | set(pinned))
        }
        self._is_unsettled = {
            register: builder.variable(I1)
            for register in self.variables
            if lazy and isa.state.file_of(register).floating
        }
        """Whether a variable holds what arithmetic gave, as in `numbers`."""
        self.narrow_variables = {register: builder.variable(I32) for register in narrow}
        """The 32 bits of registers, where they are known to be all there is."""
        for register in self.variables:
            if register not in pinned:
                self.fetch(register)
        for number, register in enumerate(pinned):
            self.variables[register].value = getattr(builder, f"k{number}")

    def _type(self, register: int) -> Any:
        file = self._isa.state.file_of(register)
        return F64 if file.floating else register_type(file)

    def pointer(self, register: int) -> Value:
        """Where memory holds *register*."""
        state = self._isa.state
        file = state.file_of(register)
        index = register - state.first[file.name]
        return self.ir.cpu.offset(self.layout.offset(file.name) + file.bits // 8 * index)

    def fetch(self, register: int) -> None:
        """Take *register* from memory."""
        value = self.ir.load(self.pointer(register), self._type(register))
        self.variables[register].value = value
        if register in self._is_unsettled:
            self._is_unsettled[register].value = Constant(I1, 0)
        if register in self.narrow_variables:
            self.narrow_variables[register].value = value.trunc(I32)

    def begin(self, pending: Iterable[int], narrow: Iterable[int] = ()) -> None:
        """Begin a block, where the registers in *narrow* are."""
        self.values, self.unsettled_values = {}, {}
        self._narrow = frozenset(narrow)
        self.pending = set(pending)
        self._written: set[int] = set()

    def read(self, register: int) -> Value:
        if register == self._isa.state.main.zero:
            return Constant(self._type(register), 0)
        value = self.values.get(register)
        if value is None:
            number = self.unsettled_values.pop(register, None)
            value = self._at_start(register) if number is None else self._settle(self.ir, number)
            self.values[register] = value
        return value

    def _at_start(self, register: int) -> Value:
        if register in self._narrow:
            return self.narrow_variables[register].value.sext(I64)
        value = self.variables[register].value
        is_unsettled = self._is_unsettled.get(register)
        return value if is_unsettled is None else self._settle(self.ir, value, is_unsettled.value)

    def unsettled(self, register: int) -> Value:
        """A floating register for arithmetic, to which all NaNs are the same."""
        number = self.unsettled_values.get(register)
        if number is None and register in self._is_unsettled and register not in self.values:
            return self.variables[register].value
        return self.read(register) if number is None else number

    def write(self, register: int, value: Value) -> None:
        if register == self._isa.state.main.zero:
            return
        self.unsettled_values.pop(register, None)
        self.values[register] = value
        self.pending.add(register)
        self._written.add(register)

    def write_unsettled(self, register: int, value: Value) -> None:
        """Like `write`, of what arithmetic gave: it is made canonical where that is seen."""
        self.write(register, value)
        del self.values[register]
        self.unsettled_values[register] = value

    def end(self, narrow: Collection[int] = ()) -> None:
        """End a block that another one in the region follows, with the registers in *narrow*."""
        for register in sorted(self._written):
            is_unsettled = self._is_unsettled.get(register)
            if is_unsettled is not None:
                is_unsettled.value = Constant(I1, register in self.unsettled_values)
                if register in self.unsettled_values:
                    self.variables[register].value = self.unsettled_values[register]
                    continue
            value = self.read(register)
            self.variables[register].value = value
            if register in narrow:
                part = narrow_part(value)
                if part is None:
                    raise IrError(f"register {register} is not what it was found to be")
                self.narrow_variables[register].value = part

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What is found out in a block of which control does not come back is forgotten."""
        kept = dict(self.values), dict(self.unsettled_values), set(self.pending), set(self._written)
        yield
        self.values, self.unsettled_values, self.pending, self._written = kept

    def peek(self, register: int) -> Value:
        """Like `read`, for use in a block of which control may not come back."""
        value = self.values.get(register)
        if value is not None:
            return value
        number = self.unsettled_values.get(register)
        return self._at_start(register) if number is None else self._settle(self.ir, number)

    def store(self, *, keep: Collection[int] = (), ordered: bool = False) -> None:
        """Bring memory up to date, save for the registers in *keep*.

        *ordered*: in its place among accesses that the host may refuse.
        """
        for register in sorted(self.pending.difference(keep)):
            value = self.peek(register)
            if ordered:
                self.ir.access_store(self.pointer(register), value, OWN_STORE)
            else:
                self.ir.store(self.pointer(register), value)

    def pinned(self) -> dict[str, Value]:
        """The operands that hand pinned registers on."""
        pinned = self._isa.state.pinned
        return {f"k{n}": self.peek(register) for n, register in enumerate(pinned)}


class Site(NamedTuple):
    """An instruction where the region may be left."""

    instruction: GuestInstruction
    remaining: int
    """Instructions that were taken from the budget and not yet run there, with this."""


class RegionState:
    """What the contexts of one region share."""

    def __init__(
        self,
        builder: Builder,
        layout: Layout,
        isa: Isa,
        kind: RegionKind,
        registers: Registers,
        budget: Value,
    ) -> None:
        self.ir, self.layout, self.kind, self.registers = builder, layout, kind, registers
        self.isa, self.guest_state = isa, isa.state
        self.hart: Any = builder.struct(layout, builder.cpu)
        self.budget: Local = builder.variable(I64, budget)
        self.sites: list[Site] = []
        self.marked: set[int] = set()
        """Numbers of the sites whose accesses the host may refuse."""
        self.exits: dict[int, int] = {}

    def take(self, budget: Value, block: GuestBlock) -> None:
        """Begin *block*, after which *budget* is left."""
        self.budget.value = budget
        if self.kind.stores_first and any(one.accesses for one in block.instructions):
            place = self.hart.pointer("fault_budget")
            self.ir.access_store(place, budget, OWN_STORE)

    def operands(self, **changes: Value) -> list[Value]:
        """Operands of a jump out of the region."""
        undefined = {
            f"k{number}": Undefined(I(self.guest_state.main.bits)) for number in range(PINNED)
        }
        return tail_operands(self.ir, **{**undefined, "budget": self.budget.value, **changes})

    def leave_to(self, target: int) -> None:
        """Go to the code at guest address *target*, known now; all jumps to it are links."""
        number = self.exits.setdefault(target, len(self.exits))
        self.registers.store()
        self.ir.TailCall(f"EXIT_{number}", *self.operands(**self.registers.pinned()))

    def leave_through_cache(self, target: Value) -> None:
        """Go to guest address *target* by way of the jump cache."""
        ir = self.ir
        self.registers.store()
        cache = jump_cache(self.layout, self.kind.context)
        entry = jump_entry(ir, self.guest_state, cache, target)
        pinned = self.registers.pinned()
        with ir.If(ir.load(entry, I64) != target, likely=False):
            self.hart.pc = target
            ir.TailCall("jump_miss", *self.operands())
        code = ir.load(entry.offset(JUMP_ENTRY.offset("region")), I32).zext(I64)
        ir.TailCall(code.to_pointer(), *self.operands(**pinned))

    def leave_for_poll(self, pc: int, budget: Value, live: set[int]) -> None:
        """The rest of the *budget* is less than the block at *pc* takes.

        *live*: the registers that matter there. What the code overwrites before it reads
        it would have to be kept through the whole loop for this.
        """
        self.registers.store(keep=self.registers.pending - live)
        self.hart.pc = pc
        self.ir.TailCall("region_poll", *self.operands(budget=budget))


class RegionContext:
    """Traces one instruction into a region (`isa.tracing.OperandContext`)."""

    native = True
    interprets = False
    has_constants = True
    answers_firmware = False
    keeps_unsettled = True

    def __init__(self, state: RegionState, one: GuestInstruction, remaining: int) -> None:
        """*remaining*: instructions that were taken from the budget and not yet run."""
        self.ir, self.xlen, self.hart = state.ir, state.guest_state.address_bits, state.hart
        self._state, self._one, self._remaining = state, one, remaining
        self._registers = state.registers
        self._marks_loads = state.kind.flat
        self._site: int | None = None
        self.taken: Value | None = None
        """The condition of a branch."""
        self.target: Value | None = None
        """Where an indirect jump goes."""

    # Leaving -----------------------------------------------------------------------------

    def _site_number(self) -> int:
        if self._site is None:
            self._site = len(self._state.sites)
            self._state.sites.append(Site(self._one, self._remaining))
        return self._site

    def interpret(self) -> None:
        """Leave the region: the interpreter carries this instruction out."""
        state = self._state
        state.registers.store()
        sites = self.ir.symbol("SITES", 0, 1 << 31)
        state.hart.site = sites + self._site_number() * SITE.size
        self.ir.TailCall("interpret_site", *state.operands())

    def raise_exception(self, cause: Value | int, value: Value | int) -> None:
        self.interpret()

    def software(self) -> None:
        self.interpret()

    # Operands ----------------------------------------------------------------------------

    def _number(self, operand: str) -> tuple[RegisterFile, int]:
        """The file and the number of a register operand, all files counted together."""
        state = self._state.guest_state
        file = state.by_file[self._one.record.file(operand) or state.main.name]
        return file, state.first[file.name] + self._one.operands[operand]

    def read(self, operand: str) -> Value:
        if operand not in self._one.operands:
            # A semantic function shared by several instructions may ask for what this has not.
            return Constant(I64, 0)
        file, register = self._number(operand)
        value = self._registers.read(register)
        return value.bitcast(I(file.bits)) if file.floating else value

    def write(self, operand: str, value: Value | int) -> None:
        file, register = self._number(operand)
        lifted = self.ir.lift(value, register_type(file))
        if file.floating:
            self._registers.write(register, lifted.bitcast(F64))
            return
        part = narrow_part(lifted)
        loads = self._marks_loads and self._one.record.kind is Kind.LOAD
        if loads and operand in RESULTS and lifted.type.is_integer:
            # LLVM would take the widened value apart again, make another load of it and
            # forget the mark.
            lifted = emit("opaque", lifted)
            part = None if part is None else lifted.trunc(I32)
        if not isinstance(lifted, Constant):
            lifted.narrow = part
        self._registers.write(register, lifted)

    def read_next(self, operand: str, places: int) -> Value:
        raise IrError("registers that no operand names are in no region")

    def write_next(self, operand: str, places: int, value: Value) -> None:
        raise IrError("registers that no operand names are in no region")

    def register(self, file: str, index: int) -> Value:
        return self._registers.read(self._state.guest_state.first[file] + index)

    def set_register(self, file: str, index: int, value: Value | int) -> None:
        state = self._state.guest_state
        lifted = self.ir.lift(value, register_type(state.by_file[file]))
        self._registers.write(state.first[file] + index, lifted)

    def unsettled(self, operand: str) -> Value:
        return self._registers.unsettled(self._number(operand)[1])

    def write_unsettled(self, operand: str, value: Value) -> None:
        self._registers.write_unsettled(self._number(operand)[1], value)

    def field(self, name: str) -> Value:
        return Constant(I64, self._one.operands[name])

    @property
    def imm(self) -> Value:
        return Constant(I(self.xlen), self._one.operands["imm"])

    @property
    def pc(self) -> Value:
        return Constant(I(self.xlen), self._one.pc)

    @property
    def next_pc(self) -> Value:
        return Constant(I(self.xlen), self._one.next_pc)

    @property
    def word(self) -> Value:
        return Constant(I64, self._one.word)

    # Memory ------------------------------------------------------------------------------

    def _host(self, address: Value, bits: int, write: bool, aligned: bool = False) -> Value:
        """The host address of a guest-virtual one."""
        ir = self.ir
        address = address.zext(I64)
        size = bits // 8
        if self._state.kind.flat:
            if aligned and size > 1:
                with ir.If((address & (size - 1)) != 0, likely=False):
                    self.interpret()
            if self._state.kind.stores_first:
                self._registers.store(ordered=True)
                self._registers.pending.clear()
            self._state.marked.add(self._site_number())
            return ir.tlb.offset(address)
        entry = tlb_entry(ir, ir.tlb, address)
        if aligned:
            page = address & (mask(64) ^ (PAGE_SIZE - 1) | (size - 1))
        else:
            page = (address + (size - 1) if size > 1 else address) & -PAGE_SIZE
        host = ir.variable(I64)
        offset = TLB_ENTRY.offset("write" if write else "read")
        with ir.If(ir.load(entry.offset(offset), I64) != page, likely=False):
            access = Constant(I64, WRITE if write else READ)
            checked = Constant(I64, size - 1 if aligned else 0)
            found = ir.call(
                "region_fill",
                *(ir.cpu, address, access, Constant(I64, size), checked),
                result=I64,
                convention="cold",
            )
            with ir.If(found == 0, likely=False):
                self.interpret()
            host.value = found
        with ir.Else():
            host.value = address + ir.load(entry.offset(TLB_ENTRY.offset("addend")), I64)
        return host.value.to_pointer()

    @property
    def _mark(self) -> int | None:
        return self._site_number() if self._state.kind.flat else None

    def load(self, address: Value, bits: int) -> Value:
        return self.ir.access_load(self._host(address, bits, False), I(bits), self._mark)

    def load_vector(self, address: Value, bits: int) -> Value:
        return self.ir.access_load(self._host(address, bits, False), V(bits), self._mark)

    def store(self, address: Value, value: Value) -> None:
        self.ir.access_store(self._host(address, value.type.bits, True), value, self._mark)

    def atomic(self, kind: str, address: Value, value: Value, bits: int) -> Value:
        return self.ir.atomic(kind, self._host(address, bits, True, True), value, self._mark)

    def exchange_if(self, address: Value, expected: Value, new: Value) -> Value:
        host = self._host(address, new.type.bits, True, True)
        return self.ir.compare_exchange(host, expected, new, self._mark)

    def load_reserved(self, address: Value, bits: int) -> Value:
        host = self._host(address, bits, False, True)
        return reserve(self, self.ir.load(host, I(bits), atomic=True, mark=self._mark), address)

    def store_conditional(self, address: Value, value: Value, bits: int) -> Value:
        host = self._host(address, bits, True, True)
        return conditional(self, host, address, value, self._mark)

    def fence(self) -> None:
        self.ir.fence()

    # Control -----------------------------------------------------------------------------

    def branch(self, condition: Value, target: Value) -> None:
        self.taken = condition

    def jump(self, target: Value) -> None:
        self.target = target


def region_context(isa: Isa) -> type[RegionContext]:
    """The contexts of regions as *isa*'s semantics see them."""
    bound: type[RegionContext] = isa.guest.bind(RegionContext)
    return bound
