"""The mirror comes from a setting or out of the system's own apt configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from tandemu.guests import GuestError
from tandemu.guests.sources import Source, find_source, read_sources

DEB822 = """\
# a comment
Types: deb deb-src
URIs: http://mirror.test/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/some.gpg

Types: deb-src
URIs: http://mirror.test/source
Suites: bookworm

Types: deb
Enabled: no
URIs: http://mirror.test/off
Suites: bookworm

Types: deb
URIs: https://third.test
Suites: nodistro
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQINB
 -----END PGP PUBLIC KEY BLOCK-----
"""

ONE_LINE = """\
# deb http://mirror.test/off bookworm main
deb-src http://mirror.test/debian bookworm main
deb [arch=amd64 signed-by=/k.gpg] http://mirror.test/debian bookworm main contrib # remark
deb http://mirror.test/plain sid main
"""


def system(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def test_stanzas_are_read() -> None:
    key = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmQINB\n-----END PGP PUBLIC KEY BLOCK-----\n"
    assert read_sources(DEB822, deb822=True) == [
        Source("http://mirror.test/debian", "bookworm", "/usr/share/keyrings/some.gpg"),
        Source("http://mirror.test/debian", "bookworm-updates", "/usr/share/keyrings/some.gpg"),
        Source("https://third.test", "nodistro", key),
    ]


def test_lines_are_read() -> None:
    assert read_sources(ONE_LINE, deb822=False) == [
        Source("http://mirror.test/debian", "bookworm", "/k.gpg"),
        Source("http://mirror.test/plain", "sid"),
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("etc/apt/sources.list.d/debian.sources", DEB822),
        ("etc/apt/sources.list.d/debian.list", ONE_LINE),
        ("etc/apt/sources.list", ONE_LINE),
    ],
)
def test_the_systems_mirror_is_found_with_the_suite_replaced(
    tmp_path: Path, name: str, content: str
) -> None:
    keyring = "usr/share/keyrings/debian-archive-keyring.gpg"
    root = system(tmp_path, {name: content, keyring: "key"})
    source = find_source("trixie", root=root, environment={})
    assert source == Source("http://mirror.test/debian", "trixie", str(root / keyring))


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"etc/apt/sources.list.d/x.sources.disabled": DEB822},
        {"etc/apt/sources.list": "deb http://mirror.test/ubuntu noble main\n"},
        {"etc/apt/sources.list": "deb cdrom:[Debian]/ bookworm main\n"},
    ],
)
def test_without_a_debian_mirror_the_error_says_how(tmp_path: Path, files: dict[str, str]) -> None:
    with pytest.raises(GuestError, match=r"--mirror URL or in TANDEMU_MIRROR"):
        find_source("trixie", root=system(tmp_path, files), environment={})


def test_option_goes_before_setting_before_system(tmp_path: Path) -> None:
    root = system(tmp_path, {"etc/apt/sources.list": ONE_LINE})
    setting = {"TANDEMU_MIRROR": "file:/setting"}
    assert find_source("trixie", root=root, environment=setting).uri == "file:/setting"
    option = find_source("trixie", "http://option.test/x", root=root, environment=setting)
    assert option.uri == "http://option.test/x"


@pytest.mark.parametrize(
    "mirror", ["mirror", "ftp://x/y", "http:", "http://a b", 'http://"', "http://x\ny", "[x]"]
)
def test_a_strange_mirror_is_refused(tmp_path: Path, mirror: str) -> None:
    with pytest.raises(GuestError, match="not the address of a package mirror"):
        find_source("trixie", mirror, root=tmp_path, environment={})


def test_a_keyring_that_is_missing_is_named(tmp_path: Path) -> None:
    environment = {"TANDEMU_KEYRING": str(tmp_path / "none.gpg")}
    with pytest.raises(GuestError, match=r"none\.gpg, which is not a file"):
        find_source("trixie", "http://m.test/", root=tmp_path, environment=environment)
