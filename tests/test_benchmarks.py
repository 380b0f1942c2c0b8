"""The benchmark command's own logic; its programs give right results where QEMU is the guest."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import build, check, programs, report, translate
from benchmarks.__main__ import GROUPS
from benchmarks.case import NATIVE, QEMU, TANDEMU, Case, Command, Missing, Outcome, Results
from benchmarks.compute import PROGRAMS, bare_metal_commands
from benchmarks.measure import RunError, measure, run


def python(code: str) -> Command:
    return Command((sys.executable, "-c", code))


def results(**seconds: tuple[float, float]) -> Results:
    """Compute cases by name, each with Tandemu's and QEMU's time."""
    return {
        f"compute/{name}": {TANDEMU: Outcome([own, own + 1]), QEMU: Outcome([rival])}
        for name, (own, rival) in seconds.items()
    }


def test_contenders_take_turns_and_metrics_are_collected(tmp_path: Path) -> None:
    log = tmp_path / "log"
    commands = {
        name: python(f"open({str(log)!r}, 'a').write({name!r}); print('metric speed 2.5')")
        for name in ("a", "b")
    }
    outcome = measure([Case("g", "n", commands)], repeat=2, say=lambda _: None)["g/n"]
    assert log.read_text() == "ababab"  # the first round fills caches and is not counted
    assert [len(outcome[name].seconds) for name in commands] == [2, 2]
    assert outcome["a"].metrics == {"speed": [2.5, 2.5]}


def test_a_contender_that_fails_drops_out_and_the_others_go_on() -> None:
    commands = {
        "absent": Command(("/nonexistent/program",)),
        "wrong": python("print('something else')"),
        "broken": python("raise SystemExit(3)"),
        "right": python("print('answer')"),
    }
    case = Case("g", "n", commands, expect="answer")
    outcome = measure([case], repeat=1, say=lambda _: None)["g/n"]
    assert "cannot start" in outcome["absent"].failure
    assert "did not print 'answer'" in outcome["wrong"].failure
    assert "status 3" in outcome["broken"].failure
    assert not outcome["right"].failure
    assert len(outcome["right"].seconds) == 1


def test_a_run_that_does_not_end_is_ended() -> None:
    command = python("import time; time.sleep(60)")
    with pytest.raises(RunError, match="did not end"):
        run(command, Case("g", "n", {TANDEMU: command}, timeout_s=0.2))


def test_an_empty_cache_is_the_runs_own() -> None:
    code = "import os; print('cache', os.listdir(os.environ['XDG_CACHE_HOME']))"
    command = Command((sys.executable, "-c", code), fresh_cache=True)
    assert "cache []" in run(command, Case("g", "n", {TANDEMU: command})).output


def test_a_run_is_spared_what_slows_python_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    command = python("import sys; print('compiled modules are kept', not sys.dont_write_bytecode)")
    assert "kept True" in run(command, Case("g", "n", {TANDEMU: command})).output


def test_without_the_command_its_group_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    absent = python("import sys; sys.exit('tandemu: error: invalid choice: exec')")
    monkeypatch.setattr(programs, "tandemu", lambda *words: absent)
    with pytest.raises(Missing, match=r"`tandemu exec` does not work here: .* invalid choice"):
        next(programs.cases(tmp_path))


def test_results_survive_json() -> None:
    measured = results(int_sort=(1.0, 2.0))
    measured["compute/int_sort"][TANDEMU].metrics["x"] = [1.5]
    assert report.from_json(report.to_json({"cores": "2"}, measured)) == measured


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "cases": {"a": {"b": {"c": 1}}}}']
)
def test_what_is_no_result_is_refused(text: str) -> None:
    with pytest.raises(report.ResultsError):
        report.from_json(text)


def test_the_table_holds_ratios_of_minima_and_medians_and_their_mean() -> None:
    measured = {
        "compute/int-a": {TANDEMU: Outcome([1.0, 3.0]), QEMU: Outcome([2.0])},
        "compute/int-b": {TANDEMU: Outcome([4.0]), QEMU: Outcome([2.0]), NATIVE: Outcome([1.0])},
        "compute/float-c": {TANDEMU: Outcome(failure="it broke"), QEMU: Outcome([2.0])},
    }
    lines = report.table(measured).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[2][4:] == ["0.50", "1.00", ""]
    assert cells[3][4:] == ["2.00", "2.00", "4.00"]
    assert cells[4][1] == "failed"
    assert cells[5] == ["compute/int-*: geometric mean", "", "", "", "1.00", "1.41", ""]
    measured["compute/int-a"][NATIVE] = Outcome([1.0])
    assert report.table(measured).splitlines()[5].rstrip(" |").endswith(" 2.00")
    assert len({len(line) for line in lines}) == 1


def test_the_document_gets_the_results_between_its_markers(tmp_path: Path) -> None:
    document = tmp_path / "performance.md"
    document.write_text(report.DOCUMENT.read_text(encoding="utf-8"), encoding="utf-8")
    report.write_document("one result", document)
    report.write_document("another result", document)
    text = document.read_text(encoding="utf-8")
    assert "another result" in text
    assert "one result" not in text
    document.write_text("no markers", encoding="utf-8")
    with pytest.raises(report.ResultsError, match="markers"):
        report.write_document("third", document)


@pytest.mark.parametrize(
    ("target", "value", "verdict"),
    [
        (check.Target("", "compute/a", over=QEMU, at_most=0.5), 0.5, "met"),
        (check.Target("", "compute/a", over=QEMU, at_most=0.4), 0.5, "MISSED"),
        (check.Target("", "compute/a", over=QEMU, at_most=0.4, later=True), 0.5, "later"),
        (check.Target("", "compute/*", over=QEMU, at_most=1.0), 1.0, "met"),
        (check.Target("", "compute/b", minus="compute/a", at_most=4.0), 3.0, "met"),
        (check.Target("", "compute/a", over=QEMU, over_case="compute/b", at_most=1), 0.5, "met"),
        (check.Target("", "compute/a", metric="scaling", at_least=1.7), math.nan, "MISSED"),
        (check.Target("", "smp/two-harts", metric="scaling", at_least=1.7), math.nan, "unknown"),
    ],
)
def test_a_target_is_judged(target: check.Target, value: float, verdict: str) -> None:
    measured = results(a=(1.0, 2.0), b=(4.0, 2.0))
    assert target.value(measured) == pytest.approx(value, nan_ok=True)
    assert target.verdict(measured) == verdict


def test_every_target_speaks_of_a_group_and_has_one_bound() -> None:
    for target in check.read_targets():
        for path in filter(None, (target.case, target.minus, target.over_case)):
            assert path.split("/")[0] in GROUPS
        assert math.isfinite(target.at_most) != math.isfinite(target.at_least)


def test_check_says_what_it_cannot_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main([str(tmp_path / "absent.json")]) == 2
    assert "cannot read" in capsys.readouterr().err
    assert check.main([]) == 2


def test_the_translation_program_is_the_same_every_time() -> None:
    assert translate.source(200) == translate.source(200)
    assert translate.source(0).count("past_") == 0


@pytest.mark.guest
@pytest.mark.parametrize("name", ["int-sha256", "int-parser", "float-fft"])
def test_a_program_gives_the_same_checksum_natively_and_on_qemu(name: str, tmp_path: Path) -> None:
    program = next(program for program in PROGRAMS if program.name == name)
    sources = [build.BAREMETAL / program.source, build.BAREMETAL / "runtime.c"]
    host = build.native(sources, tmp_path / "native", defines=program.defines)
    elf = build.baremetal(sources, tmp_path / "elf", defines=program.defines)
    expected = subprocess.run([host], check=True, capture_output=True, text=True).stdout.strip()
    command = bare_metal_commands(elf)[QEMU]
    run(command, Case("g", name, {QEMU: command}, expect=expected))


@pytest.mark.guest
def test_the_programs_of_exec_run_under_both(tmp_path: Path) -> None:
    case = next(programs.cases(tmp_path))
    assert set(case.commands) == {TANDEMU, QEMU}
    for command in case.commands.values():
        run(command, case)
