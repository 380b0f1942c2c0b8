"""Debian's python3 runs its own test modules: all that is run passes.

That is more than under qemu-riscv64, where every test that starts a program fails unless
binfmt_misc is set up. What takes long is left out, unless TANDEMU_LONG=1 asks for all of it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.linux.conftest import TIMEOUT_S, run_exec
from tests.long import LONG, STRESS

pytestmark = pytest.mark.guest

PYTHON = "/usr/bin/python3.13"


class Module(NamedTuple):
    """A test module, what of it is run when time is short, and how many that are at least.

    The patterns are what is chosen; ``!`` leaves out. None: everything is run.
    """

    name: str
    patterns: str
    least: int
    few: str = ""
    """The patterns where each start of a program takes half a minute, if others."""


MODULES = (
    Module("test_json", "!*highly_nested* !TestTool", 120),
    Module("test_re", "", 150),
    Module("test_struct", "", 35),
    Module("test_threading", "LockTests RLockTests *RLockTests ConditionTests EventTests "
           "Semaphore* BarrierTests TimerTests test_main_thread_after_fork "
           "test_join_nondaemon_on_shutdown test_foreign_thread", 100),
    Module("test_subprocess", "test_call* test_check_output* test_communicate* test_std*_pipe "
           "test_poll test_wait test_pass_fds test_preexec test_start_new_session test_cwd "
           "test_terminate test_kill* test_undecodable_env test_restore_signals", 40,
           "test_call test_check_output test_wait test_poll test_stdin_pipe test_stdout_pipe"),
    Module("test_socket", "Basic*Test *SCMRights* Sendmsg*Test Recvmsg*Stream* TestUnixDomain "
           "TestLinuxAbstractNamespace InheritanceTest NonBlockingTCPTests", 100),
    Module("test_signal", "PosixTests PendingSignalsTests ItimerTest RaiseSignalTest "
           "test_socket test_sigint", 20),
    Module("test_faulthandler", "test_sig* test_dump_traceback_later", 4),
    Module("test_mmap", "", 30),
    Module("test_posix", "test_fexecve test_posix_spawn* test_*fd* test_file_actions", 5,
           "test_fexecve test_*fd*"),
)  # fmt: skip


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)
def test_module(module: Module, sysroot: Path, tmp_path: Path) -> None:
    chosen: list[str] = []
    few = module.few if STRESS else ""
    for pattern in [] if LONG else (few or module.patterns).split():
        chosen += ["-i" if pattern[0] == "!" else "-m", pattern.removeprefix("!")]
    ours = run_exec(
        "-L", sysroot, PYTHON, "-m", "test", "--tempdir", tmp_path, module.name, *chosen,
        timeout_s=max(280, 2 * TIMEOUT_S),
    )  # fmt: skip
    text = ours.stdout.decode(errors="replace")
    assert "Result: SUCCESS" in text, text[-6000:]
    assert ours.returncode == 0
    found = re.search(r"^Total tests: run=([\d,]+)", text, re.MULTILINE)
    assert found and int(found[1].replace(",", "")) >= (1 if few else module.least)
