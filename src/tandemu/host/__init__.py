"""What the host lends a machine: its terminal."""

from tandemu.host.output import OutputPump
from tandemu.host.terminal import Command, Signalled, Terminal, TerminalError

__all__ = ["Command", "OutputPump", "Signalled", "Terminal", "TerminalError"]
