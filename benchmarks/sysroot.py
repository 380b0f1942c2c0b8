"""Debian's programs for riscv64, unpacked: the sysroot of tests and benchmarks.

Packages come verified from the archive through `tandemu.guests`, and stay in its cache.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from tandemu.guests import GuestError, fetch_packages

SUITE = "trixie"
_C = "libc6 libgcc-s1"
_OPENSSL = f"{_C} libssl3t64 zlib1g libzstd1"
_SQLITE = f"{_C} libsqlite3-0 libreadline8t64 libtinfo6 zlib1g"
_PERL_BASE = f"{_C} libcrypt1 perl-base"
PACKAGES = {
    "shell": f"{_C} dash bash libtinfo6 coreutils libacl1 libattr1 libselinux1 libpcre2-8-0 "
    "libgmp10 libssl3t64 zlib1g libzstd1 libsystemd0 libcap2",
    "perl": f"{_PERL_BASE} perl perl-modules-5.40 libperl5.40 libbz2-1.0 libdb5.3t64 libgdbm6t64 "
    "libgdbm-compat4t64 zlib1g",
    "python": f"{_C} {_OPENSSL} {_SQLITE} python3.13 python3.13-minimal libpython3.13-minimal "
    "libpython3.13-stdlib libbz2-1.0 libdb5.3t64 libexpat1 libffi8 liblzma5 libncursesw6 libuuid1 "
    "media-types netbase tzdata",
    "python-tests": "libpython3.13-testsuite",
    "compress": f"{_C} gzip xz-utils liblzma5",
    "openssl": f"{_OPENSSL} openssl",
    "sqlite": f"{_SQLITE} sqlite3",
    "git": f"{_PERL_BASE} git libpcre2-8-0 zlib1g",
    "node": f"{_OPENSSL} nodejs libnode115 libstdc++6 libbrotli1 libcares2 libicu76 libnghttp2-14 "
    "libuv1t64 node-acorn node-cjs-module-lexer node-undici node-xtend node-minimatch "
    "node-balanced-match node-brace-expansion",
    "gcc": f"{_C} gcc gcc-riscv64-linux-gnu gcc-14 gcc-14-riscv64-linux-gnu libgcc-14-dev "
    "cpp-14-riscv64-linux-gnu libc6-dev linux-libc-dev libcrypt-dev binutils binutils-common "
    "binutils-riscv64-linux-gnu libbinutils libctf0 libctf-nobfd0 libsframe1 libjansson4 "
    "libcc1-0 libgomp1 libitm1 libatomic1 libstdc++6 libgmp10 libisl23 libmpc3 libmpfr6 "
    "libzstd1 zlib1g",
}
"""What can be chosen, each with all it needs."""

# Half of what packages hold; nothing reads it here. lto1 compiles with -flto only.
_LEFT_OUT = (
    "./usr/share/doc",
    "./usr/share/man",
    "./usr/share/locale",
    "*/lto1",
    "./usr/bin/lto-*",
)
_MERGED = ("bin", "lib", "sbin")


def unpack(folder: Path, groups: Iterable[str]) -> Path:
    """Unpack what *groups* of `PACKAGES` name into *folder*; `GuestError` if that fails."""
    if shutil.which("dpkg-deb") is None or shutil.which("tar") is None:
        raise GuestError("no dpkg-deb or no tar here; ./test installs them (Debian package dpkg)")
    names = dict.fromkeys(" ".join(PACKAGES[group] for group in groups).split())
    packages = fetch_packages(names, "riscv64", SUITE)
    for name in _MERGED:
        # As on a system that runs: qemu-riscv64 looks for /lib/ld-linux-… by that name.
        (folder / "usr" / name).mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(f"usr/{name}")
    excludes: list[str | Path] = [f"--exclude={pattern}" for pattern in _LEFT_OUT]
    for package in packages.values():
        with subprocess.Popen(
            ["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE
        ) as archive:
            command = ["tar", "-x", "--keep-directory-symlink", "-C", folder, *excludes]
            unpacked = subprocess.run(command, stdin=archive.stdout, check=False)
        if archive.returncode or unpacked.returncode:
            raise GuestError(f"{package} could not be unpacked into {folder}")
    return folder
