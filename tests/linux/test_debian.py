"""Dynamic Debian programs from a sysroot of unpacked packages."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tandemu.guests import GuestError, fetch_packages
from tests.linux.conftest import need, run_exec

pytestmark = pytest.mark.guest

PACKAGES = (
    "libc6 libtinfo6 bash coreutils libacl1 libattr1 libselinux1 libpcre2-8-0 libgmp10 "
    "libssl3t64 zlib1g libzstd1 libsystemd0 libcap2 libcrypt1 perl-base libgcc-s1"
)
CASES = (
    (
        "bash",
        "x=$(printf 'b\\na\\n' | /usr/bin/sort | /usr/bin/head -n 1); echo $x; exit 3",
        "a\n",
        3,
    ),
    ("bash", "/usr/bin/uname -m; (exit 5); echo $?", "riscv64\n5\n", 0),
    ("bash", "trap 'echo got' TERM; kill $$; /usr/bin/expr 6 '*' 7", "got\n42\n", 0),
    ("bash", "for i in {1..20}; do /usr/bin/true; done; echo {a,b}{1,2}", "a1 a2 b1 b2\n", 0),
    ("perl", "fork() || exit 3; wait; print $? >> 8, qq(\\n)", "3\n", 0),
    ("perl", "$_ = q(hello); s/l+/L/; print; exit 7", "heLo", 7),
)


@pytest.fixture(scope="module")
def sysroot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("dpkg-deb")
    try:
        packages = fetch_packages(PACKAGES.split(), "riscv64", "trixie")
    except GuestError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("sysroot")
    for package in packages.values():
        subprocess.run(["dpkg-deb", "-x", package, folder], check=True)
    return folder


@pytest.mark.parametrize(("program", "script", "output", "status"), CASES)
def test_scripts(program: str, script: str, output: str, status: int, sysroot: Path) -> None:
    flag = "-c" if program == "bash" else "-e"
    ours = run_exec("-L", sysroot, f"/usr/bin/{program}", flag, script)
    assert ours.stdout.decode() == output
    assert ours.returncode == status
