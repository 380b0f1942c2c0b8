"""The cache holds an image whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from tandemu.guests import (
    RECIPES,
    SHELL_INIT,
    GuestError,
    build_initramfs,
    cpio,
    fetch_packages,
    find_image,
    find_recipe,
    is_intact,
    list_images,
    pull_image,
    ready_image,
    remove_image,
)
from tandemu.guests.apt import Apt
from tandemu.guests.catalogue import DEFAULT_GUESTS
from tandemu.guests.deb import DebFile
from tandemu.guests.store import building, cache_folder, clear_disk_errors, scratch, writing

NAME = "debian-riscv64"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "tandemu"


def put_image(cache: Path) -> Path:
    folder = cache / "guests" / NAME
    folder.mkdir(parents=True)
    files = {"kernel": b"kernel", "initrd": b"initrd"}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    manifest = {
        "format": 1,
        "packages": {"some": {"version": "1:2-3", "sha256": "0"}},
        "files": {name: {"size": 6, "sha256": "0"} for name in files},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_every_default_guest_has_a_recipe() -> None:
    for architecture, name in DEFAULT_GUESTS.items():
        assert RECIPES[name].architecture == architecture


def test_an_unknown_guest_is_told_the_known_ones() -> None:
    with pytest.raises(GuestError, match="Did you mean debian-riscv64"):
        find_recipe("debian-riscv46")


def test_an_image_is_found(cache: Path) -> None:
    assert find_image(NAME) is None
    folder = put_image(cache)
    image = find_image(NAME)
    assert image is not None
    assert (image.kernel, image.initrd) == (folder / "kernel", folder / "initrd")
    assert image.versions == {"some": "1:2-3"}
    assert image.size_bytes == 12
    assert dict((recipe.name, image) for recipe, image in list_images())[NAME] == image
    assert not image.is_current
    # Nothing can be built out of this one, so it stays as it is.
    assert pull_image(NAME) == image
    assert ready_image(NAME) == image


def test_an_image_is_removed(cache: Path) -> None:
    assert remove_image(NAME) == 0
    folder = put_image(cache)
    assert remove_image(NAME) > 12
    assert not folder.exists() and find_image(NAME) is None
    assert [path.name for path in folder.parent.iterdir()] == [f".{NAME}.lock"]
    with pytest.raises(GuestError, match="Did you mean"):
        remove_image("debian-riscv46")


def test_the_index_is_removed_and_fetched_again(cache: Path) -> None:
    if shutil.which("apt-get") is None:
        pytest.skip("there is no apt")
    apt = Apt("riscv64", mirror="http://mirror.invalid/debian")
    lists = cache / "apt" / "trixie-riscv64" / "state" / "lists"
    lists.mkdir(parents=True)
    (lists / "index").write_bytes(bytes(100))
    apt.clean()
    assert not lists.exists()
    with pytest.raises(GuestError):
        apt.download(["busybox-static"], cache / "there")


def test_an_older_shell_is_renewed_without_fetching(cache: Path) -> None:
    folder = put_image(cache)
    busybox = b"\x7fELF" + bytes(60) + b"[\0[[\0mount\0sh\0\0"
    old = build_initramfs(busybox=busybox, init="#!/bin/sh\nold\n", compress=False)
    (folder / "initrd").write_bytes(old)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["initrd"]["size"] = len(old)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    image = ready_image(NAME)
    assert image is not None and image.is_current
    entries = {entry.path: entry.data for entry in cpio.read(image.initrd.read_bytes())}
    assert entries["init"].decode() == SHELL_INIT
    assert entries["bin/busybox"] == busybox
    assert find_image(NAME) == image
    assert image.versions == {"some": "1:2-3"}


@pytest.mark.parametrize(
    ("host", "told"),
    [
        ("xterm", "xterm"),
        ("xterm-256color", "xterm"),
        ("tmux-256color", "screen"),
        ("screen-256color", "screen"),
        ("linux", "linux"),
        ("foot", ""),
        ("", ""),
    ],
)
def test_a_guest_is_told_of_a_terminal_it_knows(host: str, told: str) -> None:
    assert find_recipe("debian-installer-riscv64").terminal_for(host) == told
    assert find_recipe(NAME).terminal_for(host) == host


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "kernel").unlink(),
        lambda folder: (folder / "initrd").write_bytes(b"short"),
        lambda folder: (folder / "manifest.json").unlink(),
        lambda folder: (folder / "manifest.json").write_text("{"),
        lambda folder: (folder / "manifest.json").write_text("[]"),
        lambda folder: (folder / "manifest.json").write_text('{"format": 1, "files": [3]}'),
        lambda folder: (folder / "manifest.json").write_text('{"format": 99}'),
    ],
)
def test_a_damaged_image_is_not_there(cache: Path, damage) -> None:
    damage(put_image(cache))
    assert find_image(NAME) is None


def test_a_checksum_is_checked_when_asked(cache: Path) -> None:
    put_image(cache)
    assert not is_intact(pull_image(NAME))


def test_a_relative_cache_setting_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == Path.home() / ".cache" / "tandemu"


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), writing(tmp_path / "file") as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with writing(tmp_path / "file") as file:
        file.write(b"whole")
    assert (tmp_path / "file").read_bytes() == b"whole"


def test_a_folder_keeps_its_old_content_until_the_new_is_whole(tmp_path: Path) -> None:
    folder = tmp_path / "image"
    with building(folder) as staging:
        (staging / "file").write_text("old")
    with pytest.raises(OSError), building(folder) as staging:
        (staging / "file").write_text("half")
        raise OSError
    assert (folder / "file").read_text() == "old"
    (tmp_path / ".image-left-by-a-killed-process").mkdir()
    with building(folder) as staging:
        (staging / "file").write_text("new")
    assert (folder / "file").read_text() == "new"
    assert list(tmp_path.iterdir()) == [folder]


def test_a_scratch_folder_vanishes(tmp_path: Path) -> None:
    with scratch(tmp_path, "some") as folder:
        (folder / "file").touch()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "complaint"), [(errno.ENOSPC, "is full"), (errno.EACCES, "writable")]
)
def test_what_the_disk_refuses_says_how_to_mend_it(
    tmp_path: Path, number: int, complaint: str
) -> None:
    with pytest.raises(GuestError, match=complaint), clear_disk_errors(tmp_path):
        raise OSError(number, os.strerror(number))


def test_a_cache_that_is_a_file_is_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(GuestError, match="XDG_CACHE_HOME"):
        pull_image(NAME)


def test_without_apt_the_error_says_what_else_works(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(GuestError, match="no apt on this system"):
        Apt("riscv64")


@pytest.mark.guest
def test_packages_come_from_the_real_archive(cache: Path) -> None:
    (path,) = fetch_packages(["busybox-static"], "riscv64").values()
    assert DebFile(path).control()["Architecture"] == "riscv64"
    assert DebFile(path).read("usr/bin/busybox").startswith(b"\x7fELF")
    # A changed file is noticed and fetched again.
    path.write_bytes(b"changed")
    assert fetch_packages(["busybox-static"], "riscv64") == {"busybox-static": path}
    assert DebFile(path).control()["Package"] == "busybox-static"
    with pytest.raises(GuestError, match="no such package"):
        fetch_packages(["no-such-package-anywhere"], "riscv64")


@pytest.mark.guest
def test_the_default_guest_is_whole() -> None:
    image = pull_image(NAME)
    assert is_intact(image)
    assert image.kernel.read_bytes()[0x38:0x3C] == b"RSC\x05"


def test_a_half_synchronised_mirror_is_asked_by_the_suites_other_name(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apt = Apt("riscv64", mirror="http://mirror.invalid/debian")
    asked: list[str] = []

    def run(self: Apt, arguments: list[str], folder: Path, total: int = 0) -> tuple[int, str]:
        lists = folder / "state/lists"
        name = (folder / "sources.list").read_text().split()[-2]
        asked.append(name)
        code_name = {"stable": "forky", "oldstable": "trixie"}.get(name)
        if code_name is None:
            return 100, "E: File has unexpected size (1 != 2). Mirror sync in progress?"
        (lists / "some_InRelease").write_text(f"Suite: {name}\nCodename: {code_name}\n")
        return 0, ""

    monkeypatch.setattr(Apt, "_run", run)
    apt.refresh()
    assert asked == ["trixie", "stable", "oldstable"]
    apt.refresh()
    assert len(asked) == 3, "what was fetched is kept for a day"
