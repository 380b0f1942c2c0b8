"""User-mode emulation: one foreign Linux program on this host's kernel."""

from tandemu.linux.errors import LinuxError
from tandemu.linux.process import Process, ProcessResult
from tandemu.linux.trace import Call

__all__ = ["Call", "LinuxError", "Process", "ProcessResult"]
