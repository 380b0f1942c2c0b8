"""The code cache: hits, keys, damage, concurrency, places that cannot be written."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

import tandemu.native
from tandemu.native import NativeCache, NativeError
from tandemu.native import cache as cache_module
from tandemu.native.cache import ENTRY_LIMIT, default_directory, memory_directory

# For processes of a test: they find the package under test, installed or not.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(tandemu.native.__file__).parents[2])}


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "_told", set())


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    root = tmp_path / "package"
    for folder in ("bits", "isa/riscv"):
        (root / folder).mkdir(parents=True)
        path = root / folder / "module.py"
        path.write_text(f"# {folder}\n")
        os.utime(path, (1_000_000_000, 1_000_000_000))
    return root


class Builder:
    def __init__(self, result: bytes = b"code" * 1000) -> None:
        self.result = result
        self.calls = 0

    def __call__(self) -> bytes:
        self.calls += 1
        return self.result


@pytest.fixture
def cache(tmp_path: Path, sources: Path) -> NativeCache:
    return NativeCache(str(tmp_path / "cache"), str(sources), memory=lambda make: None)


def entries(cache: NativeCache) -> list[Path]:
    assert cache.directory is not None
    return sorted(Path(cache.directory).glob("*.native"))


def test_builds_once(cache: NativeCache, sources: Path) -> None:
    build, notices = Builder(), list[str]()
    for _ in range(3):
        assert cache.load_or_build("riscv64", ["k=3"], build, notices.append) == build.result
    assert build.calls == 1
    assert notices == ["compiling native code for riscv64 (one-off)"]
    again = NativeCache(cache.directory, str(sources))
    assert again.load_or_build("riscv64", ["k=3"], build) == build.result
    assert build.calls == 1
    assert entries(cache)[0].stat().st_mode & 0o777 == 0o600


def test_key_covers_options_and_sources(cache: NativeCache, sources: Path) -> None:
    first = cache.key(["a", "bc"])
    assert first != cache.key(["ab", "c"])
    assert first == cache.key(["a", "bc"])
    path = sources / "isa" / "riscv" / "module.py"
    path.write_text(path.read_text().upper())
    os.utime(path, (1_000_000_000, 1_000_000_000))  # same size, same modification time
    second = cache.key(["a", "bc"])
    assert second != first
    (sources / "bits" / "more.py").write_text("")
    assert cache.key(["a", "bc"]) not in (first, second)


def test_source_digest_is_remembered_once_files_are_old(
    cache: NativeCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache.directory is not None
    first = cache.key([])
    assert not list(Path(cache.directory).glob("*.sources"))  # changed a moment ago: not trusted
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now + 10_000_000_000)
    assert cache.key([]) == first
    (memo,) = Path(cache.directory).glob("*.sources")
    assert cache.key([]) == first
    memo.write_bytes(memo.read_bytes()[:40])
    assert cache.key([]) == first


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "shared", "directory"])
def test_damaged_entry_is_rebuilt(cache: NativeCache, damage: str) -> None:
    build = Builder()
    cache.load_or_build("x", [], build)
    (path,) = entries(cache)
    data = bytearray(path.read_bytes())
    if damage == "truncate":
        path.write_bytes(data[:-5])
    elif damage == "flip":
        data[-100] ^= 1
        path.write_bytes(data)
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "shared":
        path.chmod(0o666)
    else:
        path.unlink()
        path.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error" if damage != "directory" else "ignore")
        assert cache.load_or_build("x", [], build) == build.result
    assert build.calls == 2
    if damage != "directory":
        assert cache.load_or_build("x", [], build) == build.result
        assert build.calls == 2


def test_failed_build_leaves_nothing(cache: NativeCache) -> None:
    def fail() -> bytes:
        raise NativeError("no")

    with pytest.raises(NativeError, match="no"):
        cache.load_or_build("x", [], fail)
    assert entries(cache) == []


def test_an_unwritable_directory_is_told_once_and_code_is_kept_in_memory(
    tmp_path: Path, sources: Path
) -> None:
    (tmp_path / "file").write_text("")
    memory = tmp_path / "memory"
    memory.mkdir()
    place = str(tmp_path / "file" / "below")
    cache = NativeCache(place, str(sources), memory=lambda make: str(memory))
    build, notices = Builder(), list[str]()
    for name in ("x", "y", "x"):
        assert cache.load_or_build(name, [], build, notices.append) == build.result
    assert build.calls == 2
    compiling, problem, compiling_too = notices
    assert "below cannot be written" in problem and str(memory) in problem
    assert "XDG_CACHE_HOME" in problem
    assert compiling.endswith("x (one-off)") and compiling_too.endswith("y (one-off)")


def test_without_any_place_it_is_compiled_at_each_start(tmp_path: Path, sources: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = NativeCache(str(tmp_path / "file" / "b"), str(sources), memory=lambda make: None)
    build, notices = Builder(), list[str]()
    for _ in range(2):
        assert cache.load_or_build("x", [], build, notices.append) == build.result
    assert build.calls == 2
    assert ["compiled at each start" in text for text in notices] == [False, True, False]
    homeless = NativeCache("", str(sources), memory=lambda make: None)
    homeless.directory = None
    with pytest.warns(RuntimeWarning, match="no home directory"):
        homeless.load_or_build("x", [], build)


def test_a_directory_in_memory_is_this_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tandemu.native.cache._SHARED_MEMORY", str(tmp_path))
    assert memory_directory(make=False) is None
    path = Path(memory_directory() or "")
    assert path.parent == tmp_path and path.stat().st_mode & 0o777 == 0o700
    assert memory_directory() == str(path)
    path.chmod(0o777)
    assert memory_directory() is None
    path.rmdir()
    (tmp_path / "other").mkdir(mode=0o700)
    path.symlink_to(tmp_path / "other")
    assert memory_directory() is None
    monkeypatch.setattr("tandemu.native.cache._SHARED_MEMORY", str(tmp_path / "nowhere"))
    assert memory_directory() is None


def test_one_of_several_processes_compiles_and_the_others_wait(
    sources: Path, tmp_path: Path
) -> None:
    code = f"""
import sys
from tandemu.native import NativeCache
cache = NativeCache({str(tmp_path / "cache")!r}, {str(sources)!r})
def build():
    print("build", flush=True)
    sys.stdin.read()
    return b"code"
print("got", cache.load_or_build("x", [], build, lambda text: print(text, flush=True)))
"""
    first = subprocess.Popen(
        [sys.executable, "-c", code],
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert first.stdin and first.stdout
    assert first.stdout.readline().startswith("compiling")
    assert first.stdout.readline() == "build\n"
    others = [
        subprocess.Popen(
            [sys.executable, "-c", code], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    waiting = "another process compiles native code for x; waiting for it\n"
    for other in others:
        assert other.stdout and other.stdout.readline() == waiting
    first.stdin.close()
    assert first.stdout.read() == "got b'code'\n"
    for process in (first, *others):
        assert process.wait() == 0
        assert process.stdout
        assert process is first or process.stdout.read() == "got b'code'\n"
        process.stdout.close()


def test_one_that_dies_is_not_waited_for(sources: Path, tmp_path: Path) -> None:
    arguments = f"{str(tmp_path / 'cache')!r}, {str(sources)!r}"
    code = f"""
import os, sys
from tandemu.native import NativeCache
NativeCache({arguments}).load_or_build("x", [], lambda: os._exit(3))
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, env=ENVIRONMENT)
    assert done.returncode == 3
    cache = NativeCache(str(tmp_path / "cache"), str(sources))
    assert cache.load_or_build("x", [], Builder()) == Builder().result


def test_full_disk_is_a_notice(sources: Path, tmp_path: Path) -> None:
    code = f"""
import resource, signal, sys
from tandemu.native import NativeCache
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
notes = []
cache = NativeCache({str(tmp_path / "cache")!r}, {str(sources)!r}, memory=lambda make: None)
assert cache.load_or_build("x", [], lambda: b"code" * 1000, notes.append) == b"code" * 1000
assert "compiled at each start" in notes[1], notes
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=ENVIRONMENT)
    assert list((tmp_path / "cache").glob("x-*")) == []


def test_concurrent_processes(sources: Path, tmp_path: Path) -> None:
    code = f"""
from tandemu.native import NativeCache
for number in range(40):
    cache = NativeCache({str(tmp_path / "cache")!r}, {str(sources)!r})
    want = bytes([number % 4]) * 100_000
    got = cache.load_or_build("x", [str(number % 4)], lambda: want)
    assert got == want
    if number % 8 == 7:
        import os
        for item in os.scandir({str(tmp_path / "cache")!r}):
            try: os.unlink(item.path)
            except FileNotFoundError: pass
"""
    command = [sys.executable, "-W", "ignore", "-c", code]
    running = [subprocess.Popen(command, env=ENVIRONMENT) for _ in range(2)]
    assert [process.wait() for process in running] == [0, 0]


def test_pruning(cache: NativeCache) -> None:
    assert cache.directory is not None
    os.makedirs(cache.directory)
    stale = Path(cache.directory) / "x.native.1-1.part"
    stale.write_bytes(b"")
    os.utime(stale, (1, 1))
    for number in range(ENTRY_LIMIT + 5):
        cache.load_or_build("x", [str(number)], Builder())
        newest = entries(cache)
        for path in newest:
            state = path.stat()
            os.utime(path, (state.st_atime - 60, state.st_mtime - 60))
    assert len(entries(cache)) == ENTRY_LIMIT
    assert not stale.exists()
    build = Builder()
    cache.load_or_build("x", [str(ENTRY_LIMIT + 4)], build)
    assert build.calls == 0


def test_no_sources_means_no_cache(tmp_path: Path) -> None:
    cache = NativeCache(str(tmp_path / "cache"), str(tmp_path / "nowhere"))
    build, notices = Builder(), list[str]()
    assert cache.load_or_build("x", [], build, notices.append) == build.result
    assert "not kept" in notices[1]
    assert not (tmp_path / "cache").exists()


def test_names_and_default_place(monkeypatch: pytest.MonkeyPatch, cache: NativeCache) -> None:
    with pytest.raises(NativeError, match="entry name"):
        cache.load_or_build("../evil", [], Builder())
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_directory() == "/somewhere/tandemu/native"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/user")
    assert default_directory() == "/home/user/.cache/tandemu/native"
