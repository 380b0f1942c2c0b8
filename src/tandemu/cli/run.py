"""``tandemu run``: boot a machine with this terminal as its console."""

from __future__ import annotations

import argparse
import gc
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from tandemu.accel.profile import format_profile
from tandemu.accel.statistics import format_statistics
from tandemu.bits import replace
from tandemu.board import read_file
from tandemu.cli.monitor import monitor_commands
from tandemu.host import Signalled, Terminal
from tandemu.machine import Ending, Machine, MachineError, Result
from tandemu.machine.architectures import choose_board, find_architecture
from tandemu.machine.attachments import gather
from tandemu.machine.engines import check_cpu_model, check_profile, choose_engine
from tandemu.machine.errors import OptionError
from tandemu.machine.machine import DEFAULT_MEMORY
from tandemu.machine.options import parse_memory
from tandemu.machine.result import BROKEN_STATUS

if TYPE_CHECKING:
    from tandemu.guests import GuestImage, GuestRecipe

_DEFAULT_ARCHITECTURE = "riscv64"
_SIGNAL_STATUS = 128
_LOST_STATUS = 1
_TERMINAL_NAME = re.compile(r"[A-Za-z0-9.+-]{1,32}")


def _find_guest(options: argparse.Namespace) -> GuestImage | None:
    """The image to boot: the one named, or the default one where no files are given."""
    name = options.image
    if name is None and (options.kernel is not None or options.firmware is not None):
        return None
    # What fetches guests loads much that a run with one's own files does without.
    from tandemu.cli.guests import pull
    from tandemu.guests import (
        DEFAULT_GUESTS,
        DISK_GUESTS,
        UnknownGuestError,
        find_recipe,
        ready_image,
    )

    if name is None:
        arch = options.arch or _DEFAULT_ARCHITECTURE
        devices = options.drive or options.vsock or options.device or options.net
        modules = devices or options.root is not None
        name = (DISK_GUESTS if modules else DEFAULT_GUESTS).get(arch)
        if name is None:
            known = ", ".join(DEFAULT_GUESTS)
            raise UnknownGuestError(
                f"there is no default guest for {arch!r} (there is for {known}): give --kernel FILE"
            )
    elif "/" in name or os.path.isfile(name):
        raise UnknownGuestError(
            f"{name!r} is a file, not the name of a guest: give a kernel with --kernel {name}"
        )
    recipe = find_recipe(name)
    if recipe.is_root:
        raise UnknownGuestError(
            f"{name} is a root file system: unpack it with 'tandemu guests unpack {name} FOLDER', "
            "then start it with --root FOLDER"
        )
    if options.arch and recipe.architecture != options.arch:
        raise UnknownGuestError(
            f"{name} is a guest for {recipe.architecture}, not for {options.arch}: leave --arch "
            "out or name another guest"
        )
    image = ready_image(name)
    if image is None:
        _check_before_fetching(options, recipe)
        image = pull(name, options.mirror or "")
    return image


def _check_before_fetching(options: argparse.Namespace, recipe: GuestRecipe) -> None:
    """Say what is wrong with the options and files before what they are for is fetched."""
    architecture = find_architecture(recipe.architecture)
    memory_bytes = parse_memory(options.memory or recipe.memory)
    choose_board(architecture, options.board, memory_bytes, options.cpus)
    engine = choose_engine(options.accel, architecture.name)
    check_cpu_model(options.cpu, engine)
    check_profile(options.profile, engine)
    if options.kernel is not None or options.firmware is not None:
        Machine(
            architecture.name,
            kernel=options.kernel,
            initrd=options.initrd,
            memory=memory_bytes,
            firmware=options.firmware,
            accel=options.accel,
            board=options.board,
        )
    elif options.initrd is not None:
        read_file(options.initrd)


def _command_line(options: argparse.Namespace, image: GuestImage | None) -> str:
    """The kernel's command line: the user's, or the guest's own with our terminal's traits."""
    if options.append is not None:
        return str(options.append)
    if image is None:
        return ""
    words = [image.recipe.append]
    if sys.stdin.isatty() and sys.stdout.isatty():
        # The kernel hands words of this form to the first process as its environment.
        name = image.recipe.terminal_for(os.environ.get("TERM", ""))
        if _TERMINAL_NAME.fullmatch(name):
            words.append(f"TERM={name}")
        size = os.get_terminal_size(sys.stdout.fileno())
        if size.columns > 0 and size.lines > 0:
            words.append(f"COLUMNS={size.columns} LINES={size.lines}")
    return " ".join(words)


def _make_machine(options: argparse.Namespace) -> tuple[Machine, str]:
    """The machine and a few words on what it boots."""
    image = _find_guest(options)
    memory = options.memory or (image.recipe.memory if image else DEFAULT_MEMORY)
    initrd = options.initrd
    in_folder = options.root is not None and gather(root=options.root).root_is_folder
    if initrd is None and image is not None and options.kernel is None and not in_folder:
        initrd = image.initrd
    machine = Machine(
        options.arch or (image.recipe.architecture if image else _DEFAULT_ARCHITECTURE),
        kernel=options.kernel or (image.kernel if image else None),
        initrd=initrd,
        append=_command_line(options, image),
        memory=memory,
        cpus=options.cpus,
        firmware=options.firmware,
        accel=options.accel,
        cpu=options.cpu,
        board=options.board,
        timeout=options.timeout,
        profile=options.profile,
        reboot=not options.no_reboot,
        notice=_notice,
        drives=options.drive,
        shares=options.share,
        root=options.root,
        vsock=options.vsock,
        devices=options.device,
        ports=options.port,
        net=options.net,
    )
    file = options.kernel or options.firmware or ""
    what = image.recipe.name if image else os.path.basename(file)
    return machine, what


def _notice(text: str) -> None:
    # A terminal is raw by now, and a raw one needs the carriage return.
    ending = "\r\n" if sys.stderr.isatty() else "\n"
    print(f"tandemu: {text}", file=sys.stderr, end=ending, flush=True)


def _follow_size(machine: Machine) -> None:
    """Tell the guest how large the terminal is, now and whenever that changes."""
    if not sys.stdout.isatty():
        return

    def tell(*_: object) -> None:
        size = os.get_terminal_size(sys.stdout.fileno())
        machine.resize(size.columns, size.lines)

    tell()
    signal.signal(signal.SIGWINCH, tell)


def _run_on_terminal(
    machine: Machine, what: str, begun_s: float, options: argparse.Namespace
) -> Result:
    """Start the machine with the terminal as its console; return how it ended."""
    commands = monitor_commands(machine, what, begun_s)
    terminal = Terminal(
        machine.console.offer,
        machine.request_stop,
        commands=commands,
        ready=machine.console.listening,
    )
    if terminal.interactive and sys.stderr.isatty():
        print(
            f"Booting {what}. Ctrl-A X ends the machine, Ctrl-A H lists more keys.",
            file=sys.stderr,
            flush=True,
        )
    with terminal:
        machine.console.mirror(terminal.write, calls_back=False)
        machine.start(paused=options.freeze)
        if options.gdb is not None:
            place = machine.debugger(options.gdb).address
            _notice(f"GDB is waited for: target remote {place}")
        _follow_size(machine)
        gc.freeze()
        gc.enable()
        result = machine.wait()
        if result.ending not in (Ending.TIMED_OUT, Ending.STOPPED) and not sys.stdout.isatty():
            terminal.patience_s = None  # as other programs do that write into a pipe
    if isinstance(terminal.lost, BrokenPipeError):
        raise terminal.lost
    if terminal.lost is not None:
        print(
            f"tandemu: the console's output cannot be written: {terminal.lost.strerror}; what the "
            "guest printed from there on is lost",
            file=sys.stderr,
        )
        if not result.exit_status:
            result = replace(result, exit_status=_LOST_STATUS)
    return result


def _names(options: argparse.Namespace) -> Callable[[int], str | None]:
    """What the guest's code is called: by --symbols, or by the kernel if it names anything."""
    if options.symbols and not options.profile:
        raise OptionError("--symbols is for --profile: give both")
    if options.profile and (options.symbols or options.kernel):
        from tandemu.guests import GuestError
        from tandemu.guests.symbols import read_symbols

        try:
            return read_symbols(options.symbols or options.kernel).name
        except GuestError:
            if options.symbols:
                raise
    return lambda address: None


def run(options: argparse.Namespace) -> int:
    """Carry out the command; return the exit status."""
    begun_s = time.monotonic()
    names = _names(options)
    machine, what = _make_machine(options)
    try:
        with machine:
            result = _run_on_terminal(machine, what, begun_s, options)
        if result.ending is Ending.TIMED_OUT:
            print(f"tandemu: ended after --timeout {options.timeout:g} s", file=sys.stderr)
        elif result.ending in (Ending.PANICKED, Ending.RESET, Ending.SHUT_DOWN):
            print(f"tandemu: {result.reason}", file=sys.stderr)
        if options.dump and result.exit_status == BROKEN_STATUS and (text := machine.dump()):
            print(text, file=sys.stderr)
        return result.exit_status
    except MachineError:
        if options.dump and (text := machine.dump()):
            print(text, file=sys.stderr)
        raise
    except Signalled as signalled:
        return _SIGNAL_STATUS + signalled.number
    finally:  # however it ended: by a signal, too
        if options.stats:
            print(format_statistics(machine.statistics(), begun_s), file=sys.stderr)
        if (profile := machine.profile()) is not None:
            print(format_profile(profile, names), file=sys.stderr)
