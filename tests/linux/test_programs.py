"""C programs under Tandemu and under qemu-riscv64: the same output, the same end."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.linux.conftest import run_exec, run_rival
from tests.long import LONG

pytestmark = pytest.mark.guest

PROCESSES = """\
status 11 text executed by exec red
executed by spawn none
spawn 0 status 11
spawn of nothing: No such file or directory
native 6
no child -1 No child processes
vfork 3 shared 17
sendmsg 1
recvmsg 1 F
epoll 1 123456789abcdef
eventfd 41
bind 0 listen 0
connect 0
recv 8 over tcp
poll 1 1
select 1
slept 1
rlimit 0 1
mremap c 0
mprotect of a hole -1 Cannot allocate memory
memfd same
fixed 1
unknown -1 Function not implemented
"""


@pytest.mark.parametrize(
    "name", ["files", "services", "signals", "threads", "late_fault", "rounding"]
)
def test_as_under_qemu(name: str, build: Callable[..., Path]) -> None:
    program = build(name)
    ours, theirs = run_exec(program), run_rival(program)
    assert ours.stdout.decode() == theirs.stdout.decode()
    assert ours.returncode == theirs.returncode
    assert ours.stderr == b""


@pytest.mark.parametrize("name", ["storm"])
def test_as_on_this_host(
    name: str, build: Callable[..., Path], build_native: Callable[[str], Path]
) -> None:
    ours = run_exec(build(name))
    theirs = subprocess.run(
        [build_native(name)], capture_output=True, stdin=subprocess.DEVNULL, timeout=60, check=False
    )
    assert (ours.returncode, ours.stderr) == (theirs.returncode, b"")
    assert ours.stdout.decode() == theirs.stdout.decode()


@pytest.mark.parametrize("word", ["off", "eager"] if LONG else ["eager"])
def test_threads_signals_memory_and_processes_at_once(
    word: str, build: Callable[..., Path]
) -> None:
    seconds, threads = ("60", "100") if LONG else ("2", "16")
    program = build("thread_storm")
    ours = run_exec(program, seconds, threads, TANDEMU_OPTIMISER=word)
    assert ours.stdout == b"signals 1 forks 1 maps 1 calls 1\n"
    assert ours.returncode == 0


@pytest.mark.parametrize("word", ["off", "eager", "stress"])
def test_a_program_that_compiles(word: str, build: Callable[..., Path]) -> None:
    """Its code is translated, and made into regions, and changes."""
    program = build("compiler")
    ours = run_exec("--stats", program, TANDEMU_OPTIMISER=word)
    assert ours.returncode == 0
    *same, by_call, by_fence = sorted(ours.stdout.decode().splitlines())
    assert same == sorted(run_rival(program).stdout.decode().splitlines())[:-2]
    # QEMU does not see code that is written in another view of its memory.
    expected = next(line.split()[-1] for line in same if line.startswith("by call"))
    assert by_call == f"two views, by call {expected}"
    assert by_fence == f"two views, by fence {expected}"
    flushes = re.search(r"^flushes +(\d+)$", ours.stderr.decode(), re.MULTILINE)
    # Each thread begins with one.
    assert flushes and int(flushes[1]) <= 4


def test_a_counted_loop_over_the_end(build: Callable[..., Path]) -> None:
    """Where it was made apart, with vectors, a refused access is the program's all the same."""
    program = build("overrun")
    # It waits for what is compiled.
    profile = run_exec("--profile", program, TANDEMU_OPTIMISER="stress").stderr.decode()
    assert re.search(r"add\+0x\w+ in overrun.*: optimised twice", profile), profile
    ours = run_exec(program, "5000", TANDEMU_OPTIMISER="stress")
    theirs = run_rival(program, "5000")
    assert ours.stdout == theirs.stdout
    assert (ours.returncode, theirs.returncode) == (-signal.SIGSEGV, -signal.SIGSEGV)
    assert ours.stderr == b""


ENDS = (
    *("stack", "null", "code", "far", "jump", "data", "illegal", "break", "abort", "raise", "kill"),
    *("raised", "memory", "refused", "cpu", "file", "pipe"),
)


@pytest.mark.parametrize("what", ENDS)
def test_limits_as_under_qemu(what: str, build: Callable[..., Path]) -> None:
    program = build("limits")
    ours, theirs = run_exec(program, what), run_rival(program, what)
    assert ours.stdout.decode() == theirs.stdout.decode()
    assert ours.returncode == theirs.returncode
    assert ours.stderr == b""


def test_processes(build: Callable[..., Path]) -> None:
    # qemu-riscv64 cannot execute foreign programs without binfmt_misc.
    ours = run_exec(build("processes"))
    assert ours.stdout.decode() == PROCESSES
    assert ours.returncode == 200


def test_position_independent(build: Callable[..., Path]) -> None:
    ours = run_exec(build("bare", "-static", "-nostdlib", "-fPIE", "-Wl,-pie,--no-dynamic-linker"))
    assert (ours.stdout, ours.returncode) == (b"position-independent\n", 21)


def test_dynamic(build: Callable[..., Path]) -> None:
    program = build("threads", "-O2")
    sysroot = "/usr/riscv64-linux-gnu"
    assert run_exec("-L", sysroot, program).returncode == 9
    assert run_exec(program, TANDEMU_SYSROOT=sysroot).returncode == 9


def test_missing_interpreter_is_named(build: Callable[..., Path]) -> None:
    ours = run_exec(build("threads", "-O2"), TANDEMU_SYSROOT="")
    assert ours.returncode == 127
    assert b"ld-linux-riscv64-lp64d.so.1" in ours.stderr and b"-L SYSROOT" in ours.stderr


def test_many_threads(build: Callable[..., Path]) -> None:
    ours = run_exec(build("threads"), "60", "300")
    assert ours.stdout.decode().startswith("counter 1 sum 480 own 7\n")


def test_hundred_threads_lose_no_wakeup(build: Callable[..., Path]) -> None:
    ours = run_exec(build("hammer"), "100", "60" if LONG else "10", timeout_s=240)
    assert ours.stdout.decode() == "counted 1 idle 0 damaged 0\n"
    assert ours.returncode == 0


def test_fork_while_threads_come_and_go(build: Callable[..., Path]) -> None:
    ours = run_exec(build("forks"), "100")
    assert ours.stdout == b"100 of 100\n"
    assert ours.returncode == 0


def test_death_by_signal_is_seen_by_the_parent(build: Callable[..., Path]) -> None:
    assert run_exec(build("signals")).returncode == -signal.SIGTERM


def test_strace_names_calls(build: Callable[..., Path]) -> None:
    text = run_exec("--strace", build("processes"), "x").stderr.decode()
    assert 'write(1, "executed x none\\n", 16) = 16' in text
    assert "exit_group(11)" in text


def test_hook_observes_changes_and_answers(build: Callable[..., Path], tmp_path: Path) -> None:
    from tandemu.linux import Call, Process

    log = tmp_path / "log"

    def hook(call: Call) -> int | None:
        if call.name == "write" and call.arguments[0] == 1:
            log.write_bytes(call.data(1, call.arguments[2]))
            return call.arguments[2]
        if call.name == "exit_group":
            call.arguments[0] = 33
        return None

    with open(tmp_path / "out", "wb") as out:
        result = Process([str(build("processes")), "x"], stdout=out, hook=hook, env={}).run()
    assert (result.status, result.signal) == (33, 0)
    assert log.read_bytes() == b"executed x none\n"
    assert (tmp_path / "out").read_bytes() == b""


def test_bad_pointers_in_every_call(build: Callable[..., Path]) -> None:
    # A call that waits is ended by SIGALRM; anything else but a clean end is strange.
    ours = run_exec(build("pointers"))
    *calls, last = ours.stdout.decode().splitlines()
    assert last.startswith("0 strange of 4"), [one for one in calls if "signal 14" not in one]
    assert ours.returncode == 0


@pytest.mark.parametrize("word", ["off", "stress"])
def test_a_program_without_privileges_is_optimised(build: Callable[..., Path], word: str) -> None:
    """The kernel then hides /proc/self/mem, and what is in our caches, from the process itself."""
    ours = run_exec(build("unprivileged"), TANDEMU_OPTIMISER=word)
    assert (ours.returncode, ours.stdout) == (0, run_rival(build("unprivileged")).stdout)
