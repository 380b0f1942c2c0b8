"""All native code that is made once and kept: compiled before a test could wait for it."""

from __future__ import annotations

from tandemu.isa.catalogue import find_isa, names
from tandemu.jit.engine.load import engine_code
from tandemu.linux.calls import all_rows
from tandemu.linux.native.image import NativeCalls
from tandemu.linux.process import ARCHITECTURES, make_engine
from tandemu.machine.architectures import ARCHITECTURES as MACHINES


def compile_all() -> None:
    """Compile the engines of machines that there are and programs, and the routines of calls."""
    for name in names():
        if name in MACHINES:
            engine_code(find_isa(name), flat=False, notice=None)
    for architecture in ARCHITECTURES:
        guest = architecture()
        NativeCalls(all_rows(), guest.name, make_engine(guest).copy_routine)
