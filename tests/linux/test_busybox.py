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


@pytest.mark.parametrize("script", SCRIPTS)
def test_applets(script: str, busybox: Path) -> None:
    ours, theirs = (run(busybox, "sh", "-c", script) for run in (run_exec, run_rival))
    assert ours.stdout.decode() == theirs.stdout.decode()
    assert ours.returncode == theirs.returncode


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
