"""What other threads change of a vCPU while it runs: interrupt wires and requests."""

from __future__ import annotations

from tandemu.bits import Layout
from tandemu.ir import I64, PTR, Builder, Function
from tandemu.isa.guest import System


def build_set_interrupt(layout: Layout, system: System) -> Function:
    """set_interrupt(cpu, bits, level): change interrupt inputs; safe from any thread."""
    b = Builder("set_interrupt", [("cpu", PTR), ("bits", I64), ("level", I64)])
    cpu = b.struct(layout, b.cpu)
    system.set_interrupt(b, cpu, b.bits, b.level)
    b.Return()
    return b.finish()


def build_take_message(layout: Layout, system: System) -> Function:
    """take_message(cpu, number): a message for this processor; safe from any thread."""
    b = Builder("take_message", [("cpu", PTR), ("number", I64)])
    system.take_message(b, b.struct(layout, b.cpu), b.number)
    b.Return()
    return b.finish()


def build_request(layout: Layout) -> Function:
    """change_request(cpu, gain, loss) -> old: change the request flags; any thread."""
    b = Builder("change_request", [("cpu", PTR), ("gain", I64), ("loss", I64)], result=I64)
    cpu = b.struct(layout, b.cpu)
    pointer = cpu.pointer("request")
    old = b.atomic("or", pointer, b.gain)
    b.atomic("and", pointer, ~b.loss)
    b.Return(old)
    return b.finish()
