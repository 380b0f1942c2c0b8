"""A machine put together: lifecycle, results, the console in Python."""

from tandemu.machine.console import Console, ConsoleTimeout
from tandemu.machine.errors import MachineError, MachineTimeout, OptionError
from tandemu.machine.machine import Machine
from tandemu.machine.result import Ending, Result

__all__ = [
    "Console",
    "ConsoleTimeout",
    "Ending",
    "Machine",
    "MachineError",
    "MachineTimeout",
    "OptionError",
    "Result",
]
