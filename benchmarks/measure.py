"""Runs commands: pinned, interleaved, timed from process start to process end."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from benchmarks.case import Case, Command, Measured, Outcome, Results, environment

_METRIC = re.compile(r"^metric (\w+) ([0-9.]+)\s*$", flags=re.MULTILINE)
_SAMPLE_MS = 20
_SHOWN_OF_OUTPUT = 400
_MIB = 1024 * 1024
_CHUNK_BYTES = 1 << 16


class RunError(RuntimeError):
    """A run did not do its work; the message says how and shows the end of its output."""


@dataclass(frozen=True, slots=True)
class Run:
    """One process that did its work."""

    seconds: float
    output: str
    resident_mib: float


@contextmanager
def pinned(count: int) -> Iterator[None]:
    """What starts within inherits the last *count* cores: the first serve interrupts more often."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[-count:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def resident_bytes(pid: int) -> int:
    """Resident memory that is not shared memory: guest RAM is a memfd and so is left out."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    kib = dict(re.findall(r"^(RssAnon|RssFile):\s+(\d+) kB", text, flags=re.MULTILINE))
    return 1024 * sum(map(int, kib.values()))


@dataclass(slots=True)
class _Watched:
    """What `_watch` saw of a process: when it *ended*, when the text came, its *largest* size."""

    ended: float = 0.0
    reached: float = 0.0
    largest: int = 0


def _watch(process: subprocess.Popen[bytes], output: IO[bytes], case: Case) -> _Watched:
    """Keep what *process* prints in *output* until its end, to the microsecond."""
    assert process.stdout is not None
    watched = _Watched()
    deadline = time.perf_counter() + case.timeout_s
    mark, seen = case.until.encode(), b""
    pidfd = os.pidfd_open(process.pid)
    pipe = process.stdout.fileno()
    os.set_blocking(pipe, False)
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.register(pipe, select.POLLIN)
        while (left_ms := (deadline - time.perf_counter()) * 1000) > 0:
            ready = dict(poll.poll(min(left_ms, _SAMPLE_MS) if case.watch_memory else left_ms))
            now = time.perf_counter()
            if pipe in ready:
                try:
                    data = os.read(pipe, _CHUNK_BYTES)
                except BlockingIOError:
                    data = b""
                if not data:
                    poll.unregister(pipe)
                output.write(data)
                if mark and not watched.reached:
                    seen = (seen + data)[-_CHUNK_BYTES - len(mark) :]
                    if mark in seen:
                        watched.reached = now
            elif pidfd in ready:
                watched.ended = now
                return watched
            if case.watch_memory:
                watched.largest = max(watched.largest, resident_bytes(process.pid))
    finally:
        os.close(pidfd)
    raise RunError(f"it did not end within {case.timeout_s:.0f} s")


def run(command: Command, case: Case) -> Run:
    """Run *command* once; `RunError` if it cannot start, fails, or prints the wrong thing."""
    with (
        tempfile.TemporaryDirectory(prefix="tandemu-benchmark-") as folder,
        tempfile.TemporaryFile() as output,
    ):
        variables = environment()
        if command.fresh_cache:
            variables["XDG_CACHE_HOME"] = folder
        begin = time.perf_counter()
        try:
            with pinned(case.cores):
                process = subprocess.Popen(
                    command.arguments,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    env=variables,
                    start_new_session=True,
                )
        except OSError as error:
            raise RunError(f"cannot start {command.arguments[0]}: {error.strerror}") from error
        watched, trouble = _Watched(), ""
        try:
            watched = _watch(process, output, case)
        except RunError as error:
            trouble = str(error)
        finally:
            # Also on Ctrl-C: nothing of the session is left behind.
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            status = process.wait()
            assert process.stdout is not None
            process.stdout.close()
        output.seek(0)
        text = output.read().decode(errors="replace").replace("\r\n", "\n")
    if not trouble and status != command.exit_status:
        trouble = f"it exited with status {status}"
    for expected in (case.expect, case.until):
        if not trouble and expected not in text:
            trouble = f"it did not print {expected!r}"
    if trouble:
        end = text[-_SHOWN_OF_OUTPUT:].strip()
        raise RunError(f"{trouble}; the end of its output: {end!r}")
    return Run((watched.reached or watched.ended) - begin, text, watched.largest / _MIB)


def _note(outcome: Outcome, done: Run, *, watch_memory: bool) -> None:
    outcome.seconds.append(done.seconds)
    for name, value in _METRIC.findall(done.output):
        outcome.metrics.setdefault(name, []).append(float(value))
    if watch_memory:
        outcome.metrics.setdefault("resident_mib", []).append(done.resident_mib)


def measure(
    cases: Iterable[Case | Measured],
    *,
    repeat: int,
    say: Callable[[str], None],
    warm_up: bool = True,
) -> Results:
    """Run every case *repeat* times, its contenders in turn; a failed contender drops out.

    *warm_up*: one run of each contender before, not counted, fills disk caches. One whose
    cache is to be empty, and one that is run only once, is not warmed up. What was measured
    elsewhere is taken over.
    """
    results: Results = {}
    for case in cases:
        if isinstance(case, Measured):
            results[case.path] = case.outcomes
            continue
        outcomes = {contender: Outcome() for contender in case.commands}
        results[case.path] = outcomes
        if case.cores > len(os.sched_getaffinity(0)):
            for outcome in outcomes.values():
                outcome.failure = f"needs {case.cores} cores"
            continue
        rounds = 1 if case.once else repeat + warm_up
        for number in range(rounds):
            for contender, command in case.commands.items():
                outcome = outcomes[contender]
                if outcome.failure:
                    continue
                try:
                    done = run(command, case)
                except RunError as error:
                    outcome.failure = str(error)
                    say(f"{case.path}: {contender}: {error}")
                    continue
                if case.once or number >= warm_up:
                    _note(outcome, done, watch_memory=case.watch_memory)
        times = ", ".join(
            f"{contender} {outcome.minimum:.3f} s" if outcome.seconds else f"{contender} failed"
            for contender, outcome in outcomes.items()
        )
        say(f"{case.path}: {times}")
    return results
