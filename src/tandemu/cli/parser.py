"""The options of every command: the one place that holds them.

Little but argparse is imported here, so that ``--help`` answers at once. Values are turned
into numbers here where argparse can say what is wrong with them, and checked by the
machine where they are used.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from functools import cache

from tandemu.cli.completion import SHELLS
from tandemu.cli.disk_options import add_disk
from tandemu.cli.exec_options import EXEC_DESCRIPTION, EXEC_OPTIONS, EXEC_USAGE
from tandemu.cli.version import long_version

# Type checkers know this name; importing typing takes as long as argparse.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any

_USUAL_COLUMNS = 80
_EPILOGUE = """\
exit status of run:
  0 the guest powered off, or Ctrl-A X ended it     124 --timeout was over
  1 to 255 the guest's own code, where it gives one 125 the guest's kernel panicked
                                                    2 a wrong option, 1 an error

keys on the console:
  Ctrl-A X end   Ctrl-A C monitor prompt   Ctrl-A H help   Ctrl-A Ctrl-A send Ctrl-A
"""


@cache
def _columns() -> int:
    """How wide help is: as COLUMNS says, else as the terminal."""
    wanted = os.environ.get("COLUMNS", "")
    if wanted.isdecimal() and int(wanted):
        return int(wanted)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or _USUAL_COLUMNS
    except (OSError, ValueError):  # no terminal, or closed
        return _USUAL_COLUMNS


class _Help(argparse.HelpFormatter):
    """Lays help out. argparse makes one for every option, and loads shutil for the width."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_columns() - 2)


class _HelpAsWritten(_Help, argparse.RawDescriptionHelpFormatter):
    """The same, which keeps the lines of descriptions."""


class _Parser(argparse.ArgumentParser):
    """A parser, of a command too, with such help."""

    def __init__(
        self, *, formatter_class: type[argparse.HelpFormatter] = _Help, **options: Any
    ) -> None:
        if not issubclass(formatter_class, _Help):
            # argparse's own loads shutil, for the width, as soon as an option is declared.
            formatter_class = _HelpAsWritten
        super().__init__(formatter_class=formatter_class, **options)


class _Version(argparse.Action):
    """Print the version; looked up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *given: object) -> None:
        print(long_version())
        parser.exit()


def _seconds(text: str) -> float:
    units = {"s": 1, "m": 60, "h": 3600}
    number, unit = (text[:-1], text[-1]) if text[-1:] in units else (text, "s")
    try:
        value = float(number) * units[unit]
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no time: give seconds, or 90s, 2m, 1h")
    return value


def _cpus(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= 64:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 64")
    return int(text)


def _add_run(commands: argparse._SubParsersAction[_Parser]) -> None:
    run = commands.add_parser(
        "run",
        usage="tandemu run [options] [IMAGE]",
        help="boot a machine; its console is this terminal",
        description="Boot a machine; its console is this terminal. Without IMAGE, --kernel and\n"
        "--firmware it is a stock Debian kernel with a BusyBox shell, fetched the first time.",
        epilog=_EPILOGUE,
        formatter_class=_HelpAsWritten,
    )
    run.add_argument(
        "image", nargs="?", metavar="IMAGE", help="a guest that 'tandemu guests' lists"
    )
    run.add_argument(
        "--arch", default="", help="the guest's architecture (default: IMAGE's, or riscv64)"
    )
    run.add_argument("--board", default="", help="the board (default: the architecture's)")
    run.add_argument(
        "--accel", default="auto", help="the engine: auto, kvm or jit (default: %(default)s)"
    )
    run.add_argument(
        "--cpu",
        default="",
        metavar="MODEL",
        help="what the guest sees of the processor (KVM): host or x86-64-v1 to x86-64-v4",
    )
    run.add_argument(
        "--memory", metavar="SIZE", help="such as 512M or 2G (default: what the guest needs)"
    )
    run.add_argument("--cpus", type=_cpus, default=1, metavar="N", help="how many (default: 1)")
    run.add_argument(
        "--kernel", metavar="FILE", help="a Linux Image, plain or packed, or an ELF file"
    )
    run.add_argument("--initrd", metavar="FILE", help="an initial RAM disk for the kernel")
    run.add_argument(
        "--drive",
        action="append",
        default=[],
        metavar="FILE[,OPTION…]",
        help="a disk image as a disk; options: format=F, readonly, serial=S, queues=N, bps=SIZE "
        "and iops=N (limits a second; bps-burst=, iops-burst= at once)",
    )
    run.add_argument(
        "--share",
        action="append",
        default=[],
        metavar="DIR[:TAG][,OPTION…]",
        help="a folder, for 'mount -t virtiofs TAG' (default tag: share); options: readonly, "
        "cache=none|auto|always, owner=host|recorded",
    )
    run.add_argument(
        "--root", metavar="DIR|FILE", help="the guest's root: a folder or a disk image, as above"
    )
    run.add_argument(
        "--vsock", metavar="PATH", help="the guest's sockets as a Unix socket here, and PATH_PORT"
    )
    run.add_argument(
        "--device",
        action="append",
        default=[],
        metavar="NAME",
        help="one more device: console (hvc0 on this terminal, with its size), rng (the host's "
        "random bytes), balloon (gives memory back)",
    )
    run.add_argument(
        "--port",
        action="append",
        default=[],
        metavar="NAME=SOCKET",
        help="a port of the guest (/dev/virtio-ports/NAME) as a Unix socket",
    )
    run.add_argument(
        "--net",
        action="append",
        default=[],
        metavar="KIND[,OPTION…]",
        help="a network card on user (the internet without root), tap=INTERFACE or "
        "socket,local=PATH,remote=PATH (a cable between machines); options: "
        "forward=[udp:]PORT-PORT, allow=/deny=NAME|ADDRESS|*[:PORT], "
        "host=on (10.0.2.2 is this host), capture=FILE, rate=BYTES, mtu=N, mac=M, subnet=NET/BITS, "
        "hostname=NAME, ipv6=off, link=down",
    )
    run.add_argument("--append", metavar="TEXT", help="the kernel's command line")
    run.add_argument(
        "--firmware",
        metavar="FILE",
        help="machine-mode firmware, or 'none' for bare metal (default: the built-in SBI)",
    )
    run.add_argument(
        "--timeout", type=_seconds, metavar="TIME", help="end with status 124 after so many seconds"
    )
    run.add_argument(
        "--no-reboot", action="store_true", help="end where the guest asks for a reset"
    )
    run.add_argument("--stats", action="store_true", help="say at the end what the run took")
    run.add_argument(
        "--profile", action="store_true", help="say at the end which of the guest's code ran most"
    )
    run.add_argument(
        "--symbols",
        metavar="FILE",
        help="names for --profile: an ELF file, or a list such as System.map or /proc/kallsyms",
    )
    run.add_argument(
        "--dump", action="store_true", help="show the registers if the machine breaks down"
    )
    run.add_argument(
        "--gdb",
        metavar="[ADDR:]PORT|unix:PATH",
        help="wait for GDB there ('target remote'); on this computer alone without an address",
    )
    run.add_argument(
        "--freeze",
        action="store_true",
        help="stand still before the first instruction until GDB, or 'cont' at the monitor's "
        "prompt, lets the machine go on",
    )
    run.add_argument("--mirror", metavar="URL", help="the Debian mirror to fetch a guest from")


def _add_guests(commands: argparse._SubParsersAction[_Parser]) -> None:
    guests = commands.add_parser(
        "guests",
        help="guest images: list, fetch and remove them",
        description="Guest images, put together from Debian packages that apt verifies.",
    )
    actions = guests.add_subparsers(dest="action", metavar="ACTION")
    actions.add_parser("list", help="what can be fetched and what is here (the default)")
    pull = actions.add_parser("pull", help="fetch a guest image")
    pull.add_argument("name", metavar="NAME", help="one that 'tandemu guests' lists")
    pull.add_argument("--mirror", metavar="URL", help="the Debian mirror to fetch it from")
    pull.add_argument(
        "--again", action="store_true", help="build it anew from the packages' current versions"
    )
    unpack = actions.add_parser("unpack", help="unpack a guest's root file system into a folder")
    unpack.add_argument("name", metavar="NAME", help="a system that 'tandemu guests' lists")
    unpack.add_argument("folder", metavar="FOLDER", help="a folder that is not there yet, or empty")
    _add_guests_remove(actions)


def _add_guests_remove(actions: argparse._SubParsersAction[_Parser]) -> None:
    remove = actions.add_parser("remove", help="remove guest images that were fetched")
    remove.add_argument("names", nargs="+", metavar="NAME", help="one that is here")


def _add_exec(commands: argparse._SubParsersAction[_Parser]) -> None:
    """Declare ``exec`` for the list of commands, completion and manual.

    `main` hands its words to `cli.exec` unread.
    """
    parser = commands.add_parser(
        "exec",
        add_help=False,
        usage=EXEC_USAGE,
        help="run one foreign Linux program on this host's kernel",
        description=EXEC_DESCRIPTION,
    )
    for option in EXEC_OPTIONS:
        names = option.name.split(", ")
        if option.value:
            parser.add_argument(*names, metavar=option.value, help=option.help)
        else:
            parser.add_argument(*names, action="store_true", help=option.help)
    parser.add_argument("program", metavar="PROGRAM", help="the program, and its own arguments")


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; the chosen command is in ``command``."""
    parser = _Parser(
        prog="tandemu",
        description="A machine you hold in Python: boots Linux for a foreign architecture by "
        "translating its instructions.",
    )
    parser.add_argument(
        "--version", action=_Version, nargs=0, help="show the version and its revision, and exit"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_run(commands)
    _add_guests(commands)
    add_disk(commands)
    _add_exec(commands)
    commands.add_parser(
        "doctor",
        help="what this host can do, what is missing, how to mend it",
        description="What this host can do, what is missing, and how to mend it.",
    )
    completion = commands.add_parser(
        "completion",
        help="print the script that completes this command line in a shell",
        description="Print the script that completes tandemu's command line in a shell, such as\n"
        "    tandemu completion bash > ~/.local/share/bash-completion/completions/tandemu",
        formatter_class=_HelpAsWritten,
    )
    completion.add_argument("shell", choices=tuple(SHELLS), help="the shell")
    return parser
