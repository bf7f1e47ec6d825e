"""kopt report, compare and watch from the command line."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import made_runs as m
import pytest
from made_runs import Made

from kopt.journal import FILE, Journal
from kopt.records import Evidence
from kopt.runs import folder_of

H200 = {"gpus": [{"name": "NVIDIA H200", "product": "h200", "memory_bytes": 1 << 37, "power_limit_w": 700.0}]}
CAPPED = {"gpus": [{"name": "NVIDIA H200", "product": "h200", "memory_bytes": 1 << 37, "power_limit_w": 500.0}]}


def test_report_writes_everything_and_says_where(kopt_here, workspace: Path) -> None:  # type: ignore[no-untyped-def]
    m.write(workspace, [Made(0.3)], id="one")
    done = kopt_here("report", "one", "--json")
    files = json.loads(done.out)
    assert done.code == 0
    assert sorted(Path(path).name for path in files.values()) == [
        "index.html", "summary.json", "summary.md", "utilization.png", "utilization.svg",
    ]  # fmt: skip
    assert all(Path(path).parent == workspace / "reports" / "one" for path in files.values())


def test_another_regime_is_no_comparison_and_an_unknown_power_limit_a_warning(kopt_here, workspace: Path) -> None:  # type: ignore[no-untyped-def]
    m.write(workspace, [Made(0.3, evidence=Evidence.MEASURED)], id="one", machine=H200)
    folder = m.write(workspace, [Made(0.4, evidence=Evidence.MEASURED)], id="two")
    done = kopt_here("compare", "one", "two")
    assert done.code == 0
    assert "The power limit of two's GPU was not recorded" in done.out
    path = folder / FILE
    path.write_text(path.read_text().replace('"regime":"sustained"', '"regime":"burst"'))
    refused = kopt_here("compare", "one", "two")
    assert refused.code == 2
    assert "Their regime differs (one: sustained, two: burst)" in refused.err


def test_report_goes_where_it_is_told(kopt_here, workspace: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    m.write(workspace, [Made(0.3)], id="one")
    assert kopt_here("report", "one", "--out", str(tmp_path / "there")).code == 0
    assert (tmp_path / "there" / "index.html").is_file()
    (tmp_path / "file").write_text("")
    done = kopt_here("report", "one", "--out", str(tmp_path / "file"))
    assert (done.code, done.err.count("\n")) == (4, 1)


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        ({"target": "b200"}, "product"),
        ({"task": "msa_prefill"}, "task"),
        ({"metric": "roofline"}, "metric"),
        ({"machine": CAPPED}, "power limit"),
        ({"evidence": Evidence.MODELLED}, "evidence"),
    ],
    ids=str,
)
def test_runs_whose_numbers_differ_in_kind_are_not_compared_unless_asked(  # type: ignore[no-untyped-def]
    kopt_here, workspace: Path, second: dict[str, object], reason: str
) -> None:
    evidence = second.pop("evidence", Evidence.MEASURED)
    m.write(workspace, [Made(0.3, evidence=Evidence.MEASURED)], id="one", machine=H200)
    m.write(workspace, [Made(0.4, evidence=evidence)], id="two", **{"machine": H200, **second})  # type: ignore[arg-type]
    refused = kopt_here("compare", "one", "two")
    assert refused.code == 2
    assert f"Their {reason} differs" in refused.err
    assert "--anyway" in refused.err
    assert "%" not in refused.out
    asked = kopt_here("compare", "one", "two", "--anyway")
    assert asked.code == 0
    assert f"Their {reason} differs" in asked.out
    assert "40.0 %" in asked.out


def test_another_machine_of_the_same_product_is_a_warning(kopt_here, workspace: Path) -> None:  # type: ignore[no-untyped-def]
    m.write(workspace, [Made(0.3, evidence=Evidence.MEASURED)], id="one", machine=H200)
    m.write(workspace, [Made(0.4, evidence=Evidence.MEASURED)], id="two", machine={**H200, "cpu": "another"})
    done = kopt_here("compare", "one", "two")
    assert done.code == 0
    assert "warning: Their machine differs" in done.out
    assert (workspace / "reports" / "one--two" / "comparison.svg").is_file()
    whole = json.loads(kopt_here("compare", "one", "two", "--json").out)
    assert [run["best"] for run in whole["runs"]] == [0.3, 0.4]
    assert whole["differences"] == []


def test_comparing_needs_two_runs(kopt_here, workspace: Path) -> None:  # type: ignore[no-untyped-def]
    m.write(workspace, [Made(0.3)], id="one")
    assert kopt_here("compare", "one").code == 2
    assert kopt_here("compare", "one", "one").code == 2


def test_runs_without_a_score_are_compared_all_the_same(kopt_here, workspace: Path) -> None:  # type: ignore[no-untyped-def]
    m.write(workspace, [Made(0.3)], id="one")
    m.write(workspace, [], id="two")
    done = kopt_here("compare", "one", "two")
    assert done.code == 0
    assert "two has no score" in done.out


def test_watching_a_run_shows_what_happens_until_it_ends(workspace: Path) -> None:
    folder = m.write(workspace, [Made(0.3)], id="one", stop=None)
    with Journal(folder / FILE) as journal:
        command = [sys.executable, "-m", "kopt", "watch", "one", "--workspace", str(workspace)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=_env()) as process:
            assert process.stdout is not None
            assert "passed  modelled 30.0 %" in process.stdout.readline()
            journal.append("lesson", text="swizzle helps")
            assert "lesson: swizzle helps" in process.stdout.readline()
            journal.append("stopped", reason="enough")
            rest = process.stdout.read()
    assert process.returncode == 0
    assert "stopped: enough" in rest
    assert "Landmarks" in rest


def test_watching_a_run_whose_process_died_ends_and_says_so(workspace: Path) -> None:
    m.write(workspace, [Made(0.3)], id="one", stop=None)
    command = [sys.executable, "-m", "kopt", "watch", "one", "--workspace", str(workspace)]
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=_env(), check=True)
    assert "its process is gone; kopt resume goes on" in done.stdout
    assert time.monotonic() - began < 60


def test_viewing_a_run_that_is_not_there_is_one_line(kopt_here, workspace: Path) -> None:  # type: ignore[no-untyped-def]
    folder_of(workspace).mkdir()
    done = kopt_here("view", "nope")
    assert (done.code, done.err.count("\n")) == (2, 1)
    done = kopt_here("view", "--host", "203.0.113.7")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "cannot listen on 203.0.113.7" in done.err


def _env() -> dict[str, str]:
    import os

    import kopt

    return {**os.environ, "PYTHONPATH": str(Path(kopt.__file__).parent.parent)}
