"""Each thing that can be wrong with a machine is one line with its mend."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from kopt import doctor
from kopt.doctor import Check, examine


def installed(folder: Path, name: str, version: str, files: str = "") -> None:
    """A distribution as pip leaves it, as far as importlib.metadata reads it."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "RECORD").write_text(files)


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def set_to(**found: str) -> None:
        def version(name: str) -> str:
            if name in found:
                return found[name]
            raise metadata.PackageNotFoundError(name)

        monkeypatch.setattr(metadata, "version", version)

    return set_to


def test_every_trouble_comes_with_a_mend(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_compiler", lambda: Check("compiler", "ok", "tried elsewhere"))
    monkeypatch.setattr(doctor, "_judge", lambda: Check("judge", "ok", "tried elsewhere"))
    found = list(examine(workspace))
    names = [check.name for check in found]
    assert names[:8] == ["system", "python", "package", "toolchain", "packages", "resources", "gpu", "workspace"]
    assert not [check for check in found if check.state == "fail" and not check.mend]


def test_another_distribution_of_the_same_name_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path / "site", "kopt", "3.0", "kopt/__init__.py,,\nkopt/main.py,,\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    check = doctor._package()
    assert check.state == "fail"
    assert "kopt installs a package of the same name" in check.finding
    assert "pip uninstall kopt" in check.mend


@pytest.mark.parametrize(
    ("torch", "triton", "numpy", "state"),
    [
        ("2.13.0+cpu", "3.7.1", "2.4.6", "ok"),
        ("2.11.0", "3.6.0", "2.3.5", "ok"),
        ("2.14.1", "3.8.0", "2.4.0", "ok"),
        ("2.15.0", "3.9.0", "2.4.0", "ok"),
        ("2.15.0", "3.7.1", "2.4.0", "warn"),
        ("2.10.0", "3.5.0", "2.3.0", "warn"),
    ],
)
def test_the_tested_toolchains_are_known(
    versions: Callable[..., None], torch: str, triton: str, numpy: str, state: str
) -> None:
    versions(torch=torch, triton=triton, numpy=numpy)
    assert doctor._toolchain().state == state


def test_a_missing_compiler_fails_and_names_what_to_install(versions: Callable[..., None]) -> None:
    versions(torch="2.13.0")
    check = doctor._toolchain()
    assert (check.state, "triton not installed" in check.finding, "pip install" in check.mend) == ("fail", True, True)


def test_a_check_that_breaks_is_a_warning_and_the_others_still_run(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_compiler", lambda: 1 / 0)
    monkeypatch.setattr(doctor, "_judge", lambda: Check("judge", "ok", "tried elsewhere"))
    *found, judge = examine(workspace)
    assert judge.state == "ok"
    assert found[-1].state == "warn"
    assert "ZeroDivisionError" in found[-1].finding
    assert len(found) > 8


def test_a_small_kernel_compiles_on_this_machine() -> None:
    check = doctor._compiler()
    assert check.state == "ok", check
    assert "sm_90" in check.finding


def test_a_workspace_that_cannot_hold_runs_fails(workspace: Path) -> None:
    (workspace / "submissions").write_text("a file in the way")
    check = doctor._workspace(workspace)
    assert check.state == "fail"
    assert "submissions cannot be written" in check.finding


@pytest.mark.skipif(not doctor.LINUX, reason="the judge is for Linux")
def test_the_judge_says_how_it_shares_memory_and_which_walls_stand() -> None:
    if doctor.detect().gpus:
        pytest.skip("this asks for the CPU backend")
    judge, *walls = doctor._judge()
    assert (judge.name, judge.state) == ("judge", "ok")
    assert "memfd" in judge.finding
    assert {"runner network", "runner uid", "runner landlock", "runner seccomp"} <= {wall.name for wall in walls}
    assert all((wall.state == "ok") == ("missing" not in wall.finding) for wall in walls)
    assert all(wall.mend for wall in walls if wall.state != "ok")
