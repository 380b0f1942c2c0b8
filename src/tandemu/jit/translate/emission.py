"""Pieces of the translator: copying a stencil, writing an exit descriptor, decoding."""

from __future__ import annotations

from tandemu.bits import Layout
from tandemu.ir import I8, I16, I32, I64, PTR, Builder, Constant, Function, Value
from tandemu.isa.decoder import SUB_TABLE, KeyLayout
from tandemu.jit.memory.code_cache import code_cache_of
from tandemu.jit.shared.layout import FORM, INSTRUCTION_SITE, SITE, SYMBOLS
from tandemu.jit.translate.stencils import StencilProgram
from tandemu.native.stencils import HOLE, STENCIL, HoleKind

_COPY = 16

VALUE_NUMBER = {name: number for number, name in enumerate(SYMBOLS)}
"""The place of each symbol in the `values` that fill holes."""


class Emission:
    """A function of the embedded language that adds to the cold code and the sites.

    `cold` and `site` are where the next go; `keep` makes that so for good. All of it happens
    under the lock of the code cache.
    """

    def __init__(self, b: Builder, layout: Layout, program: StencilProgram) -> None:
        self.b, self.layout, self.program = b, layout, program
        self.emit_function = build_emit(layout)
        cpu = self.cpu = b.struct(layout, b.cpu)
        cache = self.cache = code_cache_of(b, cpu)
        self.cold = b.variable(I64, cache.cold_next)
        self.site = b.variable(I64, cache.site_next)
        self.values = cache.values

    def keep(self) -> None:
        """What was added stays."""
        self.cache.cold_next = self.cold.value
        self.cache.site_next = self.site.value

    def value(self, symbol: str, value: Value | int) -> None:
        """Set what the holes named *symbol* are filled with."""
        self.values[VALUE_NUMBER[symbol]] = value

    def emit_cold(self, name: str) -> None:
        """Copy a service stencil to the cold region."""
        b = self.b
        number = self.program.numbers[name]
        self.cold.value = b.call(self.emit_function, b.cpu, self.cold.value, number)

    def add_site(
        self,
        stub: str,
        pc: Value,
        code: Value,
        *,
        word: Value | int = 0,
        length: Value | int = 0,
        form: Value | int = 0,
        next: Value | int = 0,
        remaining: Value | int = 0,
        kind: int = INSTRUCTION_SITE,
    ) -> None:
        """Write a site and the stub that points to it; the stub starts at `cold`."""
        site = self.b.struct(SITE, self.site.value.to_pointer())
        site.pc = pc
        site.word = word
        site.length = length if isinstance(length, int) else length.trunc(I8)
        site.kind = kind
        site.code = code.trunc(I32)
        site.next = next if isinstance(next, int) else next.resize(I32)
        site.form = form if isinstance(form, int) else form.resize(I16)
        site.remaining = remaining if isinstance(remaining, int) else remaining.resize(I16)
        self.value("SITE", self.site.value)
        self.emit_cold(stub)
        self.site.value = self.site.value + SITE.size


def build_emit(layout: Layout) -> Function:
    """emit(cpu, out, number) -> end: copy a stencil to *out* and fill its holes."""
    b = Builder(
        "emit_stencil", [("cpu", PTR), ("out", I64), ("number", I64)], result=I64, exported=False
    )
    cpu = b.struct(layout, b.cpu)
    values = code_cache_of(b, cpu).values
    record = b.struct(STENCIL, (cpu.stencils + b.number * STENCIL.size).to_pointer())
    source = cpu.stencil_code + record.code.zext(I64)
    size = record.size.zext(I64)
    # A stencil whose rare end stands behind its jump to the next one.
    values[VALUE_NUMBER["NEXT"]] = b.out + size
    copied = b.variable(I64, 0)
    with b.Loop():
        b.copy((b.out + copied.value).to_pointer(), (source + copied.value).to_pointer(), _COPY)
        copied.value = copied.value + _COPY
        with b.If(copied.value.uge(size)):
            b.Break()
    index = b.variable(I64, 0)
    count = record.hole_count.zext(I64)
    first = record.pointer("holes")
    with b.While(lambda: index.value.ult(count)):
        hole = b.struct(HOLE, first.offset(index.value * HOLE.size))
        place = b.out + hole.offset.zext(I64)
        value = values[hole.symbol.zext(I64)] + hole.addend.sext(I64)
        with b.Switch(hole.kind) as cases:
            with cases.Case(HoleKind.ABSOLUTE_64):
                b.store(place.to_pointer(), value)
            with cases.Case(HoleKind.RELATIVE_32):
                b.store(place.to_pointer(), (value - place).trunc(I32))
            with cases.Case(HoleKind.ABSOLUTE_8):
                b.store(place.to_pointer(), value.trunc(I8))
            with cases.Default():
                b.store(place.to_pointer(), value.trunc(I32))
        index.value = index.value + 1
    b.Return(b.out + size)
    return b.finish()


def build_decode(keys: KeyLayout, layout: Layout) -> Function:
    """decode(cpu, word) -> number of the form of a word, 0 if it is illegal.

    `isa.decoder` describes the tables.
    """
    b = Builder("decode", [("cpu", PTR), ("word", I64)], result=I64)
    cpu = b.struct(layout, b.cpu)
    key: Value = Constant(I64, 0)
    for low, width, to in keys.primary:
        key = key | (b.word.bits(low, width) << to)
    first = b.load((cpu.primary + (key << 1)).to_pointer(), I16).zext(I64)
    form = b.variable(I64, first)
    with b.If((first & SUB_TABLE) != 0):
        low, width = keys.secondary
        index = ((first ^ SUB_TABLE) << width) | b.word.bits(low, width)
        form.value = b.load((cpu.secondary + (index << 1)).to_pointer(), I16).zext(I64)
    with b.Loop():
        number = form.value
        record = b.struct(FORM, (cpu.forms + number * FORM.size).to_pointer())
        with b.If((number == 0) | ((b.word & record.mask) == record.match)):
            b.Break()
        form.value = record.general.zext(I64)
    b.Return(form.value)
    return b.finish()
