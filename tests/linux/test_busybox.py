"""Debian's static BusyBox for riscv64: applets behave as under qemu-riscv64."""

from __future__ import annotations

import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tandemu.guests import GuestError, fetch_packages
from tests.linux.conftest import need, run_exec, run_rival

pytestmark = pytest.mark.guest

SCRIPTS = (
    "echo hello; exit 5",
    "seq 1 20 | sort -r | head -n 3 | tr 1 x",
    "printf 'b 2\\na 1\\n' | awk '{ s += $2; print $1 } END { print s / 2 }'",
    "echo abc | sed 's/b/X/' | md5sum",
    "seq 1 5000 | gzip -c | gunzip -c | sha256sum",
    "cd /tmp; d=$(mktemp -d); cd $d; mkdir -p a/b; echo 1 > a/b/c; tar cf t a; rm -r a; tar xf t; "
    "find a | sort; cat a/b/c; cd /; rm -r $d",
    "i=0; while [ $i -lt 200 ]; do i=$((i + 1)); done; echo $i",
    "(exit 4); echo $?; kill -9 $$",
    "trap 'echo got' USR1; kill -USR1 $$; echo end",
    "x=$(expr 6 \\* 7); test $x = 42 && echo yes || echo no",
    "yes | head -n 1000 | wc -l",
    "sleep 0.05 & wait $!; echo waited $?",
    "cat /nonexistent; ls -d /usr /etc; stat -c %F /dev/null",
    "bc <<E\n2^100\nE",
    "dd if=/dev/zero bs=1000 count=20 2>/dev/null | cksum; od -An -tx1 -N4 /dev/zero",
)
# One applet each: what a shell starts under qemu-riscv64 may be the host's.
APPLETS = (
    "ar", "awk BEGIN{for(i=0;i<3;i++)printf(\"%.3f,%d\\n\",exp(i),2^i)}", "base64 /etc/passwd",
    "basename /a/b.c .c", "bzip2 -c /etc/passwd", "cal 2 2024", "cat /etc/passwd",
    "cksum /etc/passwd", "cmp /etc/passwd /etc/group", "comm /etc/passwd /etc/group", "cpio -t",
    "cut -d: -f1,3 /etc/passwd", "date -u -d @86400 +%F", "dc -e 2_3^p",
    "dd if=/etc/passwd bs=7 skip=3 count=5", "diff /etc/passwd /etc/group", "dirname /a/b",
    "du -s /etc/passwd", "echo a\\tb", "env -i A=1", "expand /etc/passwd", "expr 6 * 7",
    "factor 360", "false", "find /etc -maxdepth 1 -name pass*", "fold -w 9 /etc/passwd",
    "getopt ab: -a -b c", "grep -n root /etc/passwd", "gzip -c /etc/passwd",
    "head -n 2 /etc/passwd", "hexdump -C /etc/hostname", "hostname", "id -u", "kill -l", "link",
    "ln", "ls -ld /etc /usr", "md5sum /etc/passwd", "mktemp -u /tmp/same", "nl /etc/passwd",
    "nproc", "od -c /etc/passwd", "paste /etc/passwd /etc/group", "pidof nothing-such",
    "printf %s-%x\\n a 255", "ps --bad", "pwd", "readlink -f /etc/../usr", "realpath /usr/../etc",
    "rev /etc/passwd", "sed -n s/:.*/:/p /etc/passwd", "seq -w 8 11", "sha1sum /etc/passwd",
    "sha512sum /etc/passwd", "shuf -n 0 /etc/passwd", "sleep 0.01", "sort -t: -k3n /etc/passwd",
    "stat -c %F,%a /etc", "strings /etc/passwd", "sum /etc/passwd", "tac /etc/passwd",
    "tail -n 2 /etc/passwd", "tar -c -f - /etc/passwd", "test -d /etc", "touch /nonexistent/file",
    "tr a b", "true", "truncate -s 5 /nonexistent/file", "tty", "uname -sm", "uniq /etc/passwd",
    "unexpand /etc/passwd", "usleep 10", "wc /etc/passwd", "which sh", "xxd /etc/passwd",
    "zcat /etc/passwd", "no-such-applet",
)  # fmt: skip


@pytest.fixture(scope="module")
def busybox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("dpkg-deb")
    try:
        package = fetch_packages(["busybox-static"], "riscv64", "trixie")["busybox-static"]
    except GuestError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("busybox")
    subprocess.run(["dpkg-deb", "-x", package, folder], check=True)
    return next(folder.glob("**/bin/busybox"))


@pytest.mark.parametrize("folder", ["/proc/self/fd", "/proc/$$/fdinfo", "/proc/thread-self/fd"])
def test_descriptors_are_the_programs_own(folder: str, busybox: Path) -> None:
    """Ours (for signals, for the compiler) are not listed; 3 is that of the listing itself."""
    script = f"trap : USR1; cd {folder}; echo *"
    ours = run_exec(busybox, "sh", "-c", script, TANDEMU_OPTIMISER="eager")
    assert ours.stdout == b"0 1 2 3\n"


@pytest.mark.parametrize("script", SCRIPTS)
def test_applets(script: str, busybox: Path) -> None:
    ours, theirs = (run(busybox, "sh", "-c", script) for run in (run_exec, run_rival))
    assert ours.stdout.decode() == theirs.stdout.decode()
    assert ours.returncode == theirs.returncode


@pytest.mark.parametrize("words", APPLETS, ids=lambda words: words.split()[0])
def test_one_applet(words: str, busybox: Path) -> None:
    ours, theirs = (run(busybox, *words.split(" ")) for run in (run_exec, run_rival))
    assert ours.stdout == theirs.stdout
    assert ours.stderr == theirs.stderr
    assert ours.returncode == theirs.returncode


def test_applets_are_found_by_a_relative_path(busybox: Path) -> None:
    script = "cd /; sed -n 1p /etc/passwd | cut -c 1-4; readlink /proc/self/exe"
    ours = run_exec(f"./{busybox.name}", "sh", "-c", script, cwd=busybox.parent, PATH="")
    assert ours.stdout.decode() == f"root\n{busybox.resolve()}\n"
    assert ours.stderr == b""


CONTENT = bytes(range(256)) * 1000


class Serve(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/file" else 404)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT)

    def log_message(self, format: str, *values: object) -> None:
        pass


def test_wget_from_a_local_server(busybox: Path, tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Serve) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        try:
            got = run_exec(
                "--unset",
                "http_proxy",
                busybox,
                "wget",
                "-q",
                "-O",
                tmp_path / "got",
                f"{url}/file",
            )
            missing = run_exec(
                "--unset",
                "http_proxy",
                busybox,
                "wget",
                "-q",
                "-O",
                tmp_path / "no",
                f"{url}/absent",
            )
        finally:
            server.shutdown()
    assert (got.returncode, got.stderr) == (0, b"")
    assert (tmp_path / "got").read_bytes() == CONTENT
    assert missing.returncode == 1 and b"404" in missing.stderr


@pytest.mark.parametrize("word", ["eager", "stress"])
def test_everything_is_optimised(busybox: Path, word: str) -> None:
    """The same as without, when hot code and what is not is compiled, beside it or meanwhile."""
    script = "seq 1 20000 | gzip -c | gunzip -c | sha256sum; seq 1 3000 | sort -r | bzip2 | md5sum"
    plain = run_exec(busybox, "sh", "-c", script, TANDEMU_OPTIMISER="off")
    ours = run_exec("--stats", busybox, "sh", "-c", script, TANDEMU_OPTIMISER=word)
    assert ours.stdout == plain.stdout and len(plain.stdout.splitlines()) == 2
    assert ours.returncode == plain.returncode == 0
