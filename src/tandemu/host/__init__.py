"""What the host lends a machine: its terminal."""

from tandemu.host.monitor import Command, CommandError
from tandemu.host.output import OutputPump
from tandemu.host.terminal import Signalled, Terminal, TerminalError

__all__ = ["Command", "CommandError", "OutputPump", "Signalled", "Terminal", "TerminalError"]
