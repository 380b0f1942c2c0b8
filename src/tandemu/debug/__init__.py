"""Debugging by GDB's remote protocol, whatever is debugged: packets, the stub, descriptions.

What is debugged is a `target.Target`: a machine (`machine.debugging`) or a foreign program.
"""

from tandemu.debug.errors import DebugError

__all__ = ["DebugError"]
