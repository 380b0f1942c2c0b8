"""Dynamic Debian programs from a sysroot of unpacked packages."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.linux.conftest import run_exec, run_rival

pytestmark = pytest.mark.guest

SCRIPTS = (
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
    ("perl", "print `/usr/bin/seq 3 | /usr/bin/tac`", "3\n2\n1\n", 0),
)
# Without programs that start programs: qemu-riscv64 cannot, unless binfmt_misc is set up.
SAME = (
    ("perl", "-MJSON::PP", "-MDigest::SHA=sha256_hex", "-MPOSIX", "-MList::Util=shuffle", "-e",
     "print encode_json([sort { $a <=> $b } shuffle 1..9]), sha256_hex('x'), floor(-2.5)"),
    ("perl", "-e", "printf '%.17g %s %a', exp(1), 2**0.5, 1e300 * 1e10; die"),
    ("sqlite3", ":memory:",
     "CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT); WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL "
     "SELECT i + 1 FROM n WHERE i < 3000) INSERT INTO t SELECT i, printf('%05d', i * 7919 % 3001) "
     "FROM n; CREATE INDEX x ON t (b); PRAGMA integrity_check; SELECT count(*), sum(a), max(b), "
     "group_concat(substr(b, 4), '') FROM t WHERE b BETWEEN '01000' AND '01100'; SELECT no;"),
    ("openssl", "list", "-digest-algorithms"),
    ("openssl", "prime", "-generate", "-bits", "3"),
    ("openssl", "dgst", "-sha3-512", "/etc/protocols"),
    ("openssl", "kdf", "-keylen", "32", "-kdfopt", "digest:SHA256", "-kdfopt", "pass:secret",
     "-kdfopt", "salt:salt", "-kdfopt", "iter:500", "PBKDF2"),
    ("ls", "--version"), ("date", "-u", "-d", "@86400"), ("factor", "1234567890123456789"),
    ("numfmt", "--to=iec", "123456789"), ("printf", "%s %q", "a", "b c"), ("stat", "/nonexistent"),
    ("cksum", "--algorithm=blake2b", "/etc/protocols"), ("sort", "--parallel=4", "/etc/protocols"),
    ("riscv64-linux-gnu-readelf-absent",), ("riscv64-linux-gnu-as", "--version"),
)  # fmt: skip


@pytest.mark.parametrize(("program", "script", "output", "status"), SCRIPTS)
def test_scripts(program: str, script: str, output: str, status: int, sysroot: Path) -> None:
    flag = "-c" if program == "bash" else "-e"
    ours = run_exec("-L", sysroot, f"/usr/bin/{program}", flag, script)
    assert ours.stdout.decode() == output
    assert ours.returncode == status


@pytest.mark.parametrize("words", SAME, ids=lambda words: "-".join(words[:2]))
def test_as_under_qemu(words: tuple[str, ...], sysroot: Path) -> None:
    ours = run_exec("-L", sysroot, f"/usr/bin/{words[0]}", *words[1:])
    path = f"{sysroot}/usr/bin/{words[0]}"
    theirs = run_rival("-0", f"/usr/bin/{words[0]}", "-L", sysroot, path, *words[1:])
    assert ours.stdout.decode() == theirs.stdout.decode()
    assert (ours.returncode == 0) == (theirs.returncode == 0)


def test_a_program_that_compiles_as_it_runs(sysroot: Path) -> None:
    script = (
        "let s = 0; for (let i = 0; i < 300000; i++) s = (s * 31 + i) % 1000003; "
        "console.log(s, [3, 1, 2].sort().join(), JSON.stringify({a: 'é'}), /[0-9]+/.exec('a12')[0])"
    )
    test_as_under_qemu(("node", "-e", script), sysroot)


def test_compilers_compile_and_link(sysroot: Path, tmp_path: Path) -> None:
    source = tmp_path / "program.c"
    source.write_text(
        "#include <math.h>\n#include <pthread.h>\n#include <stdio.h>\n"
        "static void *work(void *x) { return (void *)(long)(sqrt(*(double *)x)); }\n"
        "int main(void) {\n    double value = 1764; void *result; pthread_t thread;\n"
        "    pthread_create(&thread, 0, work, &value);\n    pthread_join(thread, &result);\n"
        '    printf("%ld\\n", (long)result);\n    return 3;\n}\n'
    )
    options = ("-O2", "-g", "-Wall", "-Werror", "-o", "program", source, "-lm")
    built = run_exec("-L", sysroot, "/usr/bin/gcc", *options, cwd=tmp_path)
    assert (built.returncode, built.stderr) == (0, b"")
    # By its own path: what is not in the sysroot is the host's.
    ours = run_exec("-L", sysroot, tmp_path / "program")
    assert (ours.stdout, ours.returncode) == (b"42\n", 3)
    source.write_text("int main(void) { return undeclared; }\n")
    failed = run_exec("-L", sysroot, "/usr/bin/gcc", source, cwd=tmp_path)
    assert failed.returncode == 1 and b"undeclared" in failed.stderr


def test_git_makes_the_commit_that_any_git_makes(sysroot: Path, tmp_path: Path) -> None:
    script = """
    set -e
    git init -q -b main
    for i in {1..30}; do echo $i > file$i; done
    git add .
    git commit -q -m first
    git checkout -q -b side; echo side > file1; git commit -q -a -m side
    git checkout -q main; echo main > file2; git commit -q -a -m second
    git merge -q -m merged side
    git gc -q
    git fsck --strict
    git log --format=%H -n 1
    git clone -q . copy
    git -C copy log --format=%s
    """
    date = "2026-01-01T00:00:00Z"
    ours = run_exec(
        "-L", sysroot, "--env", f"HOME={tmp_path}", "/usr/bin/bash", "-c", script, cwd=tmp_path,
        GIT_CONFIG_NOSYSTEM="1", GIT_AUTHOR_NAME="A", GIT_AUTHOR_EMAIL="a@b",
        GIT_COMMITTER_NAME="A", GIT_COMMITTER_EMAIL="a@b", GIT_AUTHOR_DATE=date,
        GIT_COMMITTER_DATE=date, PATH="/usr/bin",
    )  # fmt: skip
    assert ours.stderr.decode() == ""
    lines = ours.stdout.decode().splitlines()
    assert lines[0] == "11a0038d0143cf9686d12d83e8bfad9788d9aa6f"
    assert sorted(lines[1:]) == ["first", "merged", "second", "side"]


def test_openssl_checks_itself(sysroot: Path, tmp_path: Path) -> None:
    content = bytes(range(256)) * 400
    (tmp_path / "file").write_bytes(content)
    script = """
    set -e
    openssl dgst -sha256 -r file
    openssl enc -aes-256-ctr -K 00ff -iv 0102 -in file -out secret 2> /dev/null
    openssl enc -d -aes-256-ctr -K 00ff -iv 0102 -in secret 2> /dev/null | openssl dgst -sha256 -r
    openssl genpkey -algorithm ed25519 -out key
    openssl pkey -in key -pubout -out public
    openssl pkeyutl -sign -inkey key -rawin -in file -out signature
    openssl pkeyutl -verify -pubin -inkey public -rawin -in file -sigfile signature
    openssl req -x509 -key key -subj /CN=localhost -days 9999 -out certificate
    openssl verify -CAfile certificate certificate
    openssl speed -seconds 1 -bytes 1024 sha256 2> /dev/null > speed
    """
    ours = run_exec("-L", sysroot, "/usr/bin/bash", "-c", script, cwd=tmp_path, PATH="/usr/bin")
    assert ours.stderr.decode() == ""
    digest = hashlib.sha256(content).hexdigest()
    assert ours.stdout.decode().splitlines() == [
        f"{digest} *file", f"{digest} *stdin", "Signature Verified Successfully", "certificate: OK",
    ]  # fmt: skip
    assert "sha256" in (tmp_path / "speed").read_text()
