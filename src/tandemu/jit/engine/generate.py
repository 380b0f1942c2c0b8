"""Generating the native code of an engine.

The programs in the embedded language are put together here and compiled. That
happens once for each instruction set, host processor and version of the
generator; `engine` keeps what comes out.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from tandemu.bits import Layout
from tandemu.ir import PTR, Builder, Function, Value, lower
from tandemu.isa.architecture import Isa
from tandemu.isa.guest import Guest, Instructions, System
from tandemu.jit.engine.load import ENGINE_KIND
from tandemu.jit.memory.routines import (
    MemoryRoutines,
    build_memory,
    build_ram_pointer,
)
from tandemu.jit.run.dispatcher import Dispatcher
from tandemu.jit.run.interpreter import Services, build_interpreter, build_time, retired
from tandemu.jit.run.region_routines import (
    build_install_region,
    build_link_region,
    build_place_region,
    build_start_worker,
)
from tandemu.jit.run.requests import build_request
from tandemu.jit.shared.layout import SYMBOLS, cpu_layout
from tandemu.jit.translate import stencils
from tandemu.jit.translate.blocks import LARGEST_STENCIL
from tandemu.jit.translate.routines import TranslatorRoutines, build_translator
from tandemu.jit.translate.stencils import StencilProgram
from tandemu.native import container
from tandemu.native.beside import CompilingBeside
from tandemu.native.compiler import CodeModel, compile_object
from tandemu.native.extractor import extract
from tandemu.native.linker import link
from tandemu.native.stencils import STENCIL, StencilTable
from tandemu.slots.emitters import build_log_code, build_note_pages, build_take_dirty


class Program:
    """The programs of an engine in the embedded language, before they are native."""

    dispatcher_class: type[Dispatcher] = Dispatcher

    def __init__(self, isa: Isa) -> None:
        self.isa, self.state = isa, isa.state
        self.guest: Guest = isa.guest
        self.layout: Layout = cpu_layout(isa.state)
        self.clock = build_time(self.layout)
        self.ram_pointer = build_ram_pointer(self.layout)

    def _time(self, b: Any, cpu: Any) -> Value:
        value: Value = b.call(self.clock, cpu.pointer())
        return value

    def _retired(self, b: Any, cpu: Any) -> Value:
        return retired(cpu)

    @cached_property
    def system(self) -> System:
        """The privileged architecture."""
        return self.guest.system(self.layout, self._time, self._retired, self.ram_pointer)

    @property
    def instructions(self) -> Instructions:
        """The instruction set with every meaning attached."""
        return self.system.instructions

    @cached_property
    def log_code(self) -> Function:
        return build_log_code()

    @cached_property
    def memory(self) -> MemoryRoutines:
        return build_memory(self.layout, self.state, self.ram_pointer, self.system, self.log_code)

    @property
    def copy_guest(self) -> Function | None:
        """What copies code that may be unmapped meanwhile: a machine's is not."""
        return None

    @cached_property
    def services(self) -> Services:
        return Services(self.memory, self.clock)

    @cached_property
    def interpreter(self) -> Function:
        return self._build_interpreter(native=True)

    @cached_property
    def software_interpreter(self) -> Function:
        """The interpreter for the evaluator: it leaves nothing to others."""
        return self._build_interpreter(native=False)

    def _build_interpreter(self, *, native: bool) -> Function:
        return build_interpreter(
            *(self.guest, self.state, self.instructions, self.layout, self.services),
            native=native,
        )

    @cached_property
    def trap(self) -> Function:
        """trap(cpu): take the trap in `trap_cause`, for the evaluator."""
        b = Builder("trap", [("cpu", PTR)])
        cpu = b.struct(self.layout, b.cpu)
        self.system.take_trap(b, cpu, cpu.trap_cause, cpu.trap_value)
        b.Return()
        return b.finish()

    @cached_property
    def stencils(self) -> StencilProgram:
        return stencils.build(self.guest, self.state, self.instructions, self.layout)

    @cached_property
    def translator(self) -> TranslatorRoutines:
        return build_translator(
            *(self.guest, self.state, self.system, self.layout, self.stencils, self.memory),
            self.copy_guest,
        )

    @cached_property
    def routines(self) -> tuple[Function, ...]:
        """The dispatcher's routines."""
        return self.dispatcher_class(
            self.guest,
            self.state,
            self.system,
            self.layout,
            self.stencils,
            self.memory,
            self.translator,
            self.interpreter,
            self.clock,
        ).build()

    @property
    def cache_routines(self) -> tuple[Function, ...]:
        """What Python calls to change the code cache."""
        translator = self.translator
        return (translator.lock, translator.unlock, translator.make_room, translator.flush_code)

    @property
    def region_routines(self) -> tuple[Function, ...]:
        """What Python calls to put a region in its place."""
        return (
            build_install_region(self.layout, self.state, self.stencils),
            build_place_region(self.layout, self.state, self.stencils),
            build_link_region(self.layout, self.stencils, self.translator.lookup),
            build_start_worker(),
            self.memory.fetch,
        )

    def runtime_functions(self) -> list[Function]:
        """All routines, those that stubs and Python call first."""
        return [
            *self.routines,
            *self.region_routines,
            *self.cache_routines,
            build_request(self.layout),
            self.clock,
            build_note_pages(self.log_code),
            build_take_dirty(),
        ]


def generate(program: Program) -> bytes:
    """Compile an engine."""
    stencil_program = program.stencils
    stencil_object = CompilingBeside(lower(stencil_program.functions), model=CodeModel.STENCIL)
    runtime = compile_object(lower(program.runtime_functions()), model=CodeModel.RUNTIME)
    names = [function.name for function in stencil_program.functions]
    table = extract(stencil_object.result(), names, SYMBOLS)
    _check_sizes(table)
    decoder = program.instructions.decoder
    return container.pack(
        ENGINE_KIND,
        {"isa": program.isa.name},
        {
            "stencils": table.to_bytes(),
            "image": link(runtime).to_bytes(),
            "forms": stencil_program.forms,
            "primary": decoder.primary.tobytes(),
            "secondary": decoder.secondary.tobytes(),
            **program.guest.tables,
        },
    )


def _check_sizes(table: StencilTable) -> None:
    """The translator asks for room for a whole block at once."""
    records = bytearray(table.descriptors)
    for place in range(0, len(records), STENCIL.size):
        size = STENCIL.over(records, place).size
        if size > LARGEST_STENCIL:
            raise AssertionError(f"a stencil of {size} bytes: raise LARGEST_STENCIL to hold it")
