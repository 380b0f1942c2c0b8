"""The commands of the monitor's prompt (Ctrl-A C) in ``tandemu run``."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

from tandemu.accel.statistics import format_statistics
from tandemu.cli.monitor_network import network_commands
from tandemu.host import Command, CommandError
from tandemu.machine import Machine, MachineError
from tandemu.machine.debug_commands import rows_of_bytes

_MOST_BYTES = 4096


def monitor_commands(machine: Machine, what: str, begun_s: float) -> dict[str, Command]:
    """What can be asked of *machine*, which boots *what* since *begun_s* (monotonic clock)."""

    def information(words: list[str]) -> str:
        return (
            f"{what}: {machine.architecture.name}, {len(machine.cpus)} CPU(s), "
            f"{machine.memory_bytes >> 20} MiB, engine {machine.accel}, "
            f"{machine.status}, on for {time.monotonic() - begun_s:.0f} s\n{machine.layout}"
        )

    def pause(words: list[str]) -> str:
        machine.pause()
        return machine.status

    def resume(words: list[str]) -> str:
        machine.resume()
        return machine.status

    def power(words: list[str]) -> str:
        if machine.press_power_button():
            return "pressed; the guest decides what follows"
        return "this board has no power button; 'quit' ends the machine"

    def reset(words: list[str]) -> str:
        if machine.paused:
            machine.resume()
        machine.reset()
        return ""

    def gdb(words: list[str]) -> str:
        if len(words) > 1:
            raise CommandError("gdb takes one place: [ADDR:]PORT or unix:PATH")
        try:
            place = machine.debugger(words[0] if words else "0").address
        except MachineError as error:
            raise CommandError(str(error)) from error
        return f"target remote {place}"

    def debugging(name: str) -> Callable[[list[str]], str]:
        def run(words: list[str]) -> str:
            stood = machine.paused
            if not stood:
                machine.pause()
            try:
                return machine.debug.command(" ".join([name, *words]))
            finally:
                if not stood:
                    machine.resume()

        return run

    def go_back(words: list[str]) -> str:
        return "It stands still; 'cont' at this prompt lets it go on." if machine.paused else ""

    def resize(words: list[str]) -> str:
        size = os.get_terminal_size(sys.stdout.fileno())
        machine.console.offer(f"stty rows {size.lines} cols {size.columns}\n".encode())
        return ""

    return {
        "continue": Command("back to the guest", go_back, leaves=True),
        "info": Command(
            "what runs here; or one of: mem, tlb, registers system, devices",
            lambda words: debugging("info")(words) if words else information(words),
            "[WHAT]",
        ),
        "gdb": Command("wait for GDB; without a port on any that is free", gdb, "[[ADDR:]PORT]"),
        "translate": Command(
            "where a virtual address is in guest-physical memory",
            debugging("translate"),
            "ADDRESS",
        ),
        "status": Command("running or paused", lambda words: machine.status),
        "stats": Command(
            "what it took so far",
            lambda words: format_statistics(machine.statistics(), begun_s),
        ),
        "registers": Command("the processors' registers", lambda words: machine.dump()),
        "memory": Command(
            "guest-physical memory as bytes",
            lambda words: show_memory(machine, words),
            "ADDRESS LENGTH",
        ),
        **network_commands(machine),
        "pause": Command("have all stand still", pause),
        "cont": Command("let all go on", resume),
        "power": Command("press the power button", power),
        "reset": Command("press the reset button", reset, leaves=True),
        "resize": Command(
            "type the command that tells a shell how large this terminal is", resize, leaves=True
        ),
    }


def _number(word: str) -> int:
    try:
        number = int(word, 0)
    except ValueError:
        number = -1
    if number < 0:
        raise CommandError(f"{word!r} is no number: must be such as 4096 or 0x1000")
    return number


def show_memory(machine: Machine, words: list[str]) -> str:
    """The bytes that *words*, an address and a length, ask for. The machine stands meanwhile."""
    if len(words) != 2:
        raise CommandError("memory needs an address and a length, such as memory 0x80000000 64")
    address, length = (_number(word) for word in words)
    if not 0 < length <= _MOST_BYTES:
        raise CommandError(f"a length of {length}: must be from 1 to {_MOST_BYTES} bytes")
    stood = machine.paused
    if not stood:
        machine.pause()
    try:
        data = machine.memory[address : address + length]
    finally:
        if not stood:
            machine.resume()
    assert isinstance(data, bytes)
    return rows_of_bytes(address, data)
