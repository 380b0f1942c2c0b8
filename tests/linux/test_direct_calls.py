"""System calls that the engine makes without an exit, and when it leaves them to Python."""

from __future__ import annotations

import errno
import os
import signal
import threading

import pytest

from tandemu.accel.user import (
    ArgumentKind,
    Breakpoint,
    DirectCall,
    Kicked,
    ReturnedCall,
    SystemCall,
    UserExit,
)
from tandemu.linux import host
from tandemu.linux.host import NUMBERS, SIGNAL_KICK
from tests.jit.small_machine import DATA, Code
from tests.linux.window import CODE, Open, Window, open_window

__all__ = ["open_window"]

A0, A7 = 10, 17
WRITE, FUTEX, PAUSE, PID = 64, 98, 400, 172
VALUE, POINTER, BUFFER = ArgumentKind
CALLS = {
    WRITE: DirectCall(NUMBERS["write"], (VALUE, BUFFER, VALUE)),
    PAUSE: DirectCall(NUMBERS["pause"], ()),
    PID: DirectCall(NUMBERS["getpid"], ()),
    FUTEX: DirectCall(
        NUMBERS["futex"], (POINTER, VALUE, VALUE), selector=0x7F, operations=frozenset((1,))
    ),
}


class Program:
    """A window from which `CALLS` are made."""

    def __init__(self, window: Window) -> None:
        self.engine, self.memory, self.cpu = window.engine, window.memory, window.cpu
        self.run = window.run

    def call(self, number: int, *arguments: int) -> UserExit:
        """Make one system call and stop behind it."""
        self.cpu.state.x[A7] = number
        for index, value in enumerate(arguments):
            self.cpu.state.x[A0 + index] = value & (1 << 64) - 1
        return self.run(Code(CODE)("ecall")("ebreak"))

    @property
    def result(self) -> int:
        value: int = self.cpu.state.x[A0]
        return value


@pytest.fixture
def program(open_window: Open) -> Program:
    return Program(open_window(CALLS))


def test_the_host_answers_without_an_exit(program: Program) -> None:
    code = Code(CODE).li(A7, PID).li(5, 1000).label("again")("ecall")
    code("addi", rd=5, rs1=5, imm=-1)("bne", to="again", rs1=5, rs2=0)("ebreak")
    assert program.run(code) == Breakpoint()
    assert program.result == os.getpid()
    # Three exits: code may be fetched here, one that hotness asked for at most, the end.
    assert program.engine.statistics()["traps"] <= 3


def test_pointers_are_the_programs(program: Program) -> None:
    reader, writer = os.pipe()
    program.memory.write(DATA, b"text")
    assert program.call(WRITE, writer, DATA, 4) == Breakpoint()
    assert program.result == 4
    assert os.read(reader, 10) == b"text"
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("address", [DATA + (1 << 20), 0, 1])
def test_what_is_not_mapped_is_the_hosts_to_refuse(program: Program, address: int) -> None:
    reader, writer = os.pipe()
    assert program.call(WRITE, writer, address, 4) == Breakpoint()
    assert program.result == -errno.EFAULT & (1 << 64) - 1
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize(
    ("address", "size"),
    [(1 << 38, 0), ((1 << 38) - 1, 2), (-1, 1), (DATA, 1 << 38), (DATA, -1), (1 << 63, 1 << 63)],
)
def test_a_pointer_out_of_the_window_is_not_passed_on(
    program: Program, address: int, size: int
) -> None:
    assert program.call(WRITE, 1, address, size) == SystemCall()
    assert program.cpu.state.pc == CODE + 4
    assert program.result == 1


@pytest.mark.parametrize("number", [0, 511, 512, 1 << 32 | PID, -1])
def test_other_calls_are_left_to_python(program: Program, number: int) -> None:
    assert program.call(number & (1 << 64) - 1, 7) == SystemCall()
    assert program.result == 7


def test_only_the_operations_that_are_meant(program: Program) -> None:
    for operation, leaves in ((1, False), (129, False), (0, True), (3, True), (0x7F, True)):
        expected = SystemCall() if leaves else Breakpoint()
        assert program.call(FUTEX, DATA, operation, 1) == expected


def test_a_broken_pipe_is_told(program: Program) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    # Python has SIGPIPE ignored, or the process would be gone.
    assert program.call(WRITE, writer, DATA, 1) == ReturnedCall(-errno.EPIPE)
    assert program.result == writer
    os.close(writer)


def test_a_waiting_call_is_interrupted(program: Program) -> None:
    host.prepare_kick()
    thread, done = threading.get_ident(), threading.Event()

    def interrupt() -> None:
        # It may come before the call waits.
        while not done.wait(0.001):
            signal.pthread_kill(thread, SIGNAL_KICK)

    other = threading.Thread(target=interrupt)
    other.start()
    leaving = program.call(PAUSE, 5)
    done.set()
    other.join()
    assert leaving == ReturnedCall(-errno.EINTR)
    assert (program.cpu.state.pc, program.result) == (CODE + 4, 5)


def test_a_kick_is_seen_between_calls(program: Program) -> None:
    code = Code(CODE).li(A7, PID).label("again")("ecall")("jal", to="again", rd=0)
    kicker = threading.Timer(0.05, program.cpu.kick)
    kicker.start()
    assert program.run(code) == Kicked()
    kicker.join()
