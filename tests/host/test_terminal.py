"""The terminal as console, driven through a pseudo-terminal, and as a stream."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.host.pseudo_terminal import ROOT, PseudoTerminal

CHILD = str(Path(__file__).with_name("echo_guest.py"))


def start(mode: str = "plain") -> PseudoTerminal:
    return PseudoTerminal(CHILD, mode)


def test_keys_reach_the_guest_and_ctrl_a_x_ends() -> None:
    with start() as terminal:
        terminal.expect(b"ready")
        assert terminal.raw
        terminal.type(b"ls\r\x03\x1a\x04")
        assert terminal.expect(b">").endswith(b"<ls\r\x03\x1a\x04")
        terminal.type(b"\x01\x01")
        terminal.expect(b"<\x01>")
        terminal.type(b"\x01x")
        assert terminal.finish() == 7
        assert terminal.restored
        assert b"last words" in terminal.output
        # Colours are reset and the shell's prompt gets a line of its own.
        assert terminal.output.endswith(b"\x1b[0m\x1b[?25h\r\n")


def test_help_and_unknown_keys_do_not_reach_the_guest() -> None:
    with start() as terminal:
        terminal.expect(b"ready")
        terminal.type(b"\x01h")
        terminal.expect(b"monitor prompt")
        terminal.type(b"\x01zq")
        assert terminal.expect(b">").endswith(b"<q")


def test_the_monitor_takes_commands_and_gives_the_guest_back() -> None:
    with start() as terminal:
        terminal.expect(b"ready")
        terminal.type(b"\x01c")
        terminal.expect(b"(tandemu) ")
        terminal.type(b"nonsense\r")
        terminal.expect(b"'nonsense' is no command")
        terminal.type(b"sta\r")
        terminal.expect(b"is no command")  # stats or state
        terminal.type(b"statx\x7fs\r")
        terminal.expect(b"answer 42")
        terminal.type(b"\x1b[A now\r")
        terminal.expect(b"answer ['now']")
        terminal.type(b"state\r")
        terminal.expect(b"modulo by zero")
        terminal.type(b"half a line\x03help\r")
        terminal.expect(b"continue")
        terminal.type(b"cont\r")
        terminal.type(b"g")
        terminal.expect(b"<g>")
        terminal.type(b"\x01c")
        terminal.expect(b"(tandemu) ")
        terminal.type(b"\x01c")
        terminal.type(b"h")
        terminal.expect(b"<h>")
        terminal.type(b"\x01cquit\r")
        assert terminal.finish() == 7
        assert terminal.restored


def test_ctrl_a_x_works_while_the_guest_takes_no_input() -> None:
    with start("deaf") as terminal:
        terminal.expect(b"ready")
        terminal.type(b"x" * 100)
        terminal.type(b"\x01x")
        assert terminal.finish() == 7


def test_nothing_is_lost_when_the_guest_takes_input_slowly() -> None:
    with start("slow") as terminal:
        terminal.expect(b"ready")
        terminal.type(b"abcdef")
        assert terminal.expect(b"def>")


def test_an_exception_restores_the_terminal() -> None:
    with start("raise") as terminal:
        assert terminal.finish() == 1
        assert b"a mistake" in terminal.output
        assert terminal.restored


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_restores_the_terminal(number: signal.Signals) -> None:
    with start() as terminal:
        terminal.expect(b"ready")
        terminal.process.send_signal(number)
        assert terminal.finish() == 128 + number
        assert terminal.restored


def test_a_stop_gives_the_terminal_back_for_its_time() -> None:
    # A shell with job control stands in between: only a job that has one can be stopped.
    script = f"{sys.executable} {CHILD} plain; echo shell has it; fg; exit $?"
    with PseudoTerminal("-mc", script, program="bash") as terminal:
        terminal.expect(b"ready ")
        child = int(terminal.expect(b"\r\n"))
        terminal.until(raw=True)
        os.kill(child, signal.SIGTSTP)
        terminal.expect(b"shell has it")
        terminal.until(raw=True)
        terminal.type(b"on")
        terminal.expect(b"<on>")
        terminal.type(b"\x01x")
        assert terminal.finish() == 7
        assert terminal.restored


def stream(mode: str, **arguments) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, CHILD, mode],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        **arguments,
    )


def test_without_a_terminal_bytes_stream_and_no_key_is_special() -> None:
    process = stream("plain", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin and process.stdout
    process.stdin.write(b"a\x01xb")
    process.stdin.close()
    seen = b""
    while b">" not in seen:
        seen += process.stdout.read1()
    assert b"<a\x01xb>" in seen
    # The end of the input did not end it.
    assert process.poll() is None
    process.terminate()
    assert process.wait(30) == 128 + signal.SIGTERM
    process.stdout.close()


def test_a_reader_that_goes_away_ends_the_run() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = stream("plain", stdin=subprocess.DEVNULL, stdout=writing)
    os.close(writing)
    assert process.wait(30) == 7
