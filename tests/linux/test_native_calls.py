"""System calls as native code: marshalling, and when they are left to Python."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import threading

import pytest

from tandemu.accel.user import (
    Breakpoint,
    Kicked,
    MemoryFault,
    SystemCall,
    UserExit,
)
from tandemu.linux import host
from tandemu.linux.host import SIGNAL_KICK
from tests.jit.small_machine import DATA, Code
from tests.linux.window import CODE, Open, Window, open_window

__all__ = ["open_window"]

A0, A7 = 10, 17
WRITE, FUTEX, POLL, PID, STAT, WRITEV, OPEN, CLOSE = 64, 98, 73, 172, 80, 66, 56, 57
CALLS = {
    WRITE: "write",
    FUTEX: "futex",
    POLL: "ppoll",
    PID: "getpid",
    STAT: "fstat",
    WRITEV: "writev",
    OPEN: "openat",
    CLOSE: "close",
    139: "rt_sigreturn",
}
HERE = -100 & (1 << 64) - 1


class Program:
    """A window from which `CALLS` are made."""

    def __init__(self, window: Window) -> None:
        self.engine, self.memory, self.cpu = window.engine, window.memory, window.cpu
        self.run = window.run
        self.native, self.thread = window.native, window.thread
        self.handler = window.native.helper_address("handle_signal")

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


def error(code: int) -> int:
    return -code & (1 << 64) - 1


@pytest.mark.parametrize(
    ("address", "size", "result"),
    [
        (1 << 38, 1, error(errno.EFAULT)),
        ((1 << 38) - 1, 2, error(errno.EFAULT)),
        (-1, 1, error(errno.EFAULT)),
        (1 << 63, 1 << 62, error(errno.EFAULT)),
        (DATA, -1, error(errno.EFAULT)),
        # What is there is written, up to where memory ends.
        (DATA, 1 << 38, 4 * 4096),
        (1 << 38, 0, error(errno.EFAULT)),
    ],
)
def test_a_pointer_out_of_the_window_is_refused(
    program: Program, address: int, size: int, result: int
) -> None:
    reader, writer = os.pipe()
    assert program.call(WRITE, writer, address, size) == Breakpoint()
    assert program.result == result
    # Whose descriptor it is comes first.
    assert program.call(WRITE, -1, address, size) == Breakpoint()
    assert program.result == error(errno.EBADF)
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("number", [0, 511, 512, 1 << 32 | PID, -1])
def test_other_calls_are_left_to_python(program: Program, number: int) -> None:
    assert program.call(number & (1 << 64) - 1, 7) == SystemCall()
    assert program.result == 7


def test_a_structure_is_the_guests(program: Program) -> None:
    file = os.open("/etc/passwd", os.O_RDONLY)
    assert program.call(STAT, file, DATA) == Breakpoint()
    state = os.fstat(file)
    data = program.memory.read(DATA, 128)
    device, inode, mode, links, user, group = struct.unpack_from("<QQIIII", data)
    assert (device, inode, mode, links) == (
        state.st_dev, state.st_ino, state.st_mode, state.st_nlink
    )  # fmt: skip
    assert (user, group) == (state.st_uid, state.st_gid)
    size, block_size = struct.unpack_from("<Qi", data, 48)
    assert (size, block_size) == (state.st_size, state.st_blksize)
    assert program.call(STAT, file, DATA - 8) == Breakpoint()
    assert program.result == error(errno.EFAULT)
    os.close(file)


def test_vectors_are_moved(program: Program) -> None:
    reader, writer = os.pipe()
    vectors = struct.pack("<6Q", DATA + 256, 2, 0, 0, DATA + 258, 3)
    program.memory.write(DATA, vectors + bytes(208) + b"abcde")
    assert program.call(WRITEV, writer, DATA, 3) == Breakpoint()
    assert (program.result, os.read(reader, 10)) == (5, b"abcde")
    for count, address, code in (
        (1025, DATA, errno.EINVAL), (-1, DATA, errno.EINVAL), (2, DATA - 16, errno.EFAULT),
        (2, 1 << 40, errno.EFAULT),
    ):  # fmt: skip
        assert program.call(WRITEV, writer, address, count) == Breakpoint()
        assert program.result == error(code)
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize(
    ("path", "leaves"),
    [
        ("/etc/passwd", False),
        ("/etc/../etc/passwd", False),
        ("nowhere", False),
        ("/processes", False),
        ("/tmp/aproc", False),
        ("x" * 300, False),
        ("/proc/self/exe", True),
        ("//proc/uptime", True),
        ("/dev/../proc/./self/maps", True),
        ("/proc", True),
        ("exe", True),
        ("task/1/comm", True),
        ("smaps_rollup", True),
        ("smaps_rolled", False),
    ],
)
def test_a_path_is_looked_at(program: Program, path: str, leaves: bool) -> None:
    # Across a border of pages, too.
    for place in (DATA, DATA + 4096 - len(path) // 2, DATA + 4 * 4096 - len(path) - 1):
        program.memory.write(place, path.encode() + b"\0")
        leaving = program.call(OPEN, HERE, place, 0, 0)
        assert leaving == (SystemCall() if leaves else Breakpoint())
        if not leaves and program.result < 1 << 16:
            os.close(program.result)
    program.memory.write(DATA + 4 * 4096 - len(path), path.encode())
    assert program.call(OPEN, HERE, DATA + 4 * 4096 - len(path), 0, 0) == Breakpoint()
    assert program.result == error(errno.EFAULT)


def test_a_hidden_descriptor_is_left_to_python(program: Program) -> None:
    assert program.call(CLOSE, 1 << 16) == SystemCall()
    assert program.call(CLOSE, (1 << 16) - 1) == Breakpoint()
    assert program.result == error(errno.EBADF)


def test_a_broken_pipe_is_told(program: Program) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    # Python has SIGPIPE ignored, or the process would be gone.
    assert program.call(WRITE, writer, DATA, 1) == Breakpoint()
    assert program.result == error(errno.EPIPE)
    os.close(writer)


def test_a_kick_is_never_too_early(program: Program) -> None:
    host.install_handler(SIGNAL_KICK, program.handler)
    process, thread = os.getpid(), threading.get_native_id()

    def kick() -> None:
        program.cpu.kick()
        host.kick(process, thread)

    for _ in range(300):
        kicker = threading.Thread(target=kick)
        kicker.start()
        # One kick ends it, wherever it comes: before the call, at its door, in it.
        assert program.call(POLL, 0, 0, 0, 0) == Kicked()
        kicker.join()
        # The program comes to the call again.
        assert (program.cpu.state.pc, program.result) == (CODE, 0)


def test_a_kick_is_seen_between_calls(program: Program) -> None:
    code = Code(CODE).li(A7, PID).label("again")("ecall")("jal", to="again", rd=0)
    kicker = threading.Timer(0.05, program.cpu.kick)
    kicker.start()
    assert program.run(code) == Kicked()
    kicker.join()


def test_a_signal_frame_goes_there_and_back(program: Program) -> None:
    state, native = program.cpu.state, program.native
    before = [0, *(3 << 60 | n for n in range(1, 32))]
    before[2] = DATA + 3 * 4096 + 8
    state.x[0:32] = before
    state.f[0:32] = floats = list(range(1 << 63, (1 << 63) + 32))
    state.pc, state.fflags, state.frm = 0x1234, 17, 3
    process, thread = native.process, program.thread
    thread.mask, process.trampoline = 1 << 40, CODE
    action = process.actions[35]
    action.handler, action.mask = CODE + 64, 1 << 50
    details = ctypes.create_string_buffer(b"\x23" * 128, 128)
    enter = native.helper("enter", 3)
    old = host.get_mask()
    assert enter(thread.self, 35, ctypes.addressof(details)) == 0
    assert host.get_mask() == thread.mask == 1 << 40 | 1 << 50 | 1 << 34
    frame = state.x[2]
    assert frame % 16 == 0 and DATA + 2 * 4096 < frame < before[2] - 1000
    assert (state.pc, state.x[1], list(state.x[10:13])) == (
        CODE + 64, CODE, [35, frame, frame + 128]
    )  # fmt: skip
    assert program.memory.read(frame, 128) == details.raw
    assert program.memory.read_word(frame + 128 + 40) == 1 << 40
    state.x[3:32] = [0] * 29
    state.f[0:32] = [1] * 32
    state.fflags = state.frm = 0
    program.memory.write(CODE, Code(CODE)("ecall").build())
    state.x[17], state.pc = 139, CODE
    leaving = program.cpu.run()
    # Where the frame leads there is no code.
    assert leaving == MemoryFault(0x1234, "execute")
    assert list(state.x[1:17]) == before[1:17] and list(state.x[18:32]) == before[18:]
    assert list(state.f[0:32]) == floats and (state.fflags, state.frm) == (17, 3)
    assert host.get_mask() == thread.mask == 1 << 40
    host.set_mask(old)
