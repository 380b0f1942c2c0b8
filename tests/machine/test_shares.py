"""Folders: options as people write them, and Linux in one and on one."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tandemu import Machine
from tandemu.guests import fetch_packages
from tandemu.guests.deb import DebFile
from tandemu.guests.initramfs import applets
from tandemu.machine import MachineError
from tandemu.machine.attachments import Drive, Share, gather, parse_share
from tests.long import STRESS

PROMPT = "~ # "
PATIENCE_S = 900 if STRESS else 120


def test_options() -> None:
    assert parse_share("dir") == Share("dir", "share")
    assert parse_share("/a:b:tag,readonly,cache=always,owner=recorded") == Share(
        *("/a:b", "tag", True, "always", "recorded")
    )
    assert parse_share("/a:b/c") == Share("/a:b/c")


def test_root(tmp_path: Path) -> None:
    (tmp_path / "disk.img").write_bytes(bytes(512))
    found = gather(root=str(tmp_path), shares=["x"])
    assert found.shares == (Share("x"), Share(str(tmp_path), "root"))
    assert found.boot_words == "root=root rootfstype=virtiofs rw" and found.root_is_folder
    found = gather(root=f"{tmp_path}/disk.img,readonly", drives=["b"])
    assert found.drives == (Drive(f"{tmp_path}/disk.img", read_only=True), Drive("b"))
    assert found.boot_words == "root=/dev/vda ro" and not found.root_is_folder


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "without a folder"),
        ("a:" + "x" * 37, "1 to 36"),
        ("a,cache=some", "must be none or auto or always"),
        ("a,owner=me", "must be host or recorded"),
        ("a,tag=b", "'tag'"),
    ],
)
def test_options_that_cannot_be(text: str, said: str) -> None:
    with pytest.raises(MachineError, match=said):
        parse_share(text)


def test_two_shares_need_two_tags() -> None:
    with pytest.raises(MachineError, match="two shares"):
        gather(shares=["a", "b"])


@pytest.mark.guest
@pytest.mark.timeout(8 * PATIENCE_S)
def test_linux_uses_a_folder(tmp_path: Path) -> None:
    (tmp_path / "from host").write_text("read by the guest\n")
    commands = [
        "mkdir /m; mount -t virtiofs files /m; cd /m; cat 'from host'",
        "mkdir d; echo written > d/new; ln -s new d/link; cat d/link; mv d e; chmod 640 e/new",
        "chown 12:34 e/new; stat -c '%u %g %a' e/new",
        "cp /bin/busybox e; cmp e/busybox /bin/busybox",
        "for n in $(seq 100); do echo $n > e/$n; done; ls e | wc -l; find . | wc -l",
        "dd if=/dev/zero of=sparse bs=1 count=1 seek=1M; cat ../../etc/passwd; rm -r e/[0-9]*",
        "cd ~; umount /m",
    ]
    share = f"{tmp_path}:files,owner=recorded"
    with Machine.of_guest(shares=[share], cpus=2, timeout=PATIENCE_S) as vm:
        vm.start()
        vm.console.expect(PROMPT, PATIENCE_S)
        for command in commands:
            vm.console.send(command + "\n")
            vm.console.expect("# ", PATIENCE_S)
        vm.console.send("poweroff\n")
        vm.wait()
        output = vm.console.output
    assert "\r\nread by the guest\r\n" in output and "\r\nwritten\r\n" in output
    assert "\r\n12 34 640\r\n" in output
    assert "\r\n103\r\n" in output and "\r\n106\r\n" in output
    assert "differ" not in output
    assert (tmp_path / "e" / "new").read_text() == "written\n"
    assert sorted(os.listdir(tmp_path / "e")) == ["busybox", "link", "new"]
    assert (tmp_path / "sparse").stat().st_size == (1 << 20) + 1
    assert (tmp_path / "e" / "new").stat().st_uid == os.geteuid()


@pytest.mark.guest
@pytest.mark.timeout(8 * PATIENCE_S)
def test_linux_boots_from_a_folder(tmp_path: Path) -> None:
    busybox = DebFile(fetch_packages(["busybox-static"], "riscv64")["busybox-static"]).read(
        "usr/bin/busybox"
    )
    for name in ("bin", "sbin", "proc", "dev"):
        (tmp_path / name).mkdir()
    (tmp_path / "bin" / "busybox").write_bytes(busybox)
    (tmp_path / "bin" / "busybox").chmod(0o755)
    for name in applets(busybox):
        if name != "busybox":
            (tmp_path / "bin" / name).symlink_to("busybox")
    init = tmp_path / "sbin" / "init"
    init.write_text(
        "#!/bin/sh\nmount -t proc proc /proc\ngrep ' / ' /proc/mounts\n"
        "echo made by the guest > /file\nsync\npoweroff -f\n"
    )
    init.chmod(init.stat().st_mode | stat.S_IXUSR)
    with Machine.of_guest(root=tmp_path, timeout=PATIENCE_S) as vm:
        vm.start()
        assert vm.wait().exit_status == 0
        assert "root / virtiofs rw" in vm.console.output
    assert (tmp_path / "file").read_text() == "made by the guest\n"
