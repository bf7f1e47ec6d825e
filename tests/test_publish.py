"""What is published is what was verified: the file, its evidence, and the op made of it."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from quick import TOOLCHAIN

import kopt
from kopt import content
from kopt.errors import HarnessError, MachineError, UsageError
from kopt.evaluate.policy import check
from kopt.journal import FILE, Journal
from kopt.judge import Plan, Rival
from kopt.meta import Meta, create, write_whole
from kopt.publish.compose import compose
from kopt.publish.record import find
from kopt.publish.write import header, publish
from kopt.records import (
    Contest,
    Evidence,
    Finale,
    Measurement,
    Outcome,
    Quantity,
    StageResult,
    Status,
    Submission,
    Task,
    Trial,
    Verdict,
    digest,
)
from kopt.run import Run

KERNEL = '''"""A product in tiles."""

import torch

RUNG = 3
TUNE = {
    "TILE": [16, 32, 64],  # rows
    "FAST": [True, False],
}  # the space

SEEN = []


def blend(a, scale, b, out, *, TILE=16, FAST=True):  # the entry
    """Ünïcode before the default."""
    SEEN.append((TILE, FAST))
    torch.mm(a, b.T, out=out)
    out.mul_(scale)
'''


@pytest.fixture
def blend(tmp_path: Path) -> Task:
    """The task in a workspace of its own."""
    import shutil

    folder = tmp_path / "tasks" / "blend"
    shutil.copytree(Path(__file__).parent / "judge" / "tasks" / "blend", folder)
    (tmp_path / "kopt.toml").write_text("")
    return content.read_task(folder)


def measured(task: Task, us: dict[str, float]) -> tuple[Measurement, ...]:
    return tuple(
        Measurement(
            shape=s.name, regime="burst", host_us=Quantity(value=us.get(s.name, 100.0)),
            utilization=Quantity(value=0.4), baseline_ratio=Quantity(value=0.9),
        )
        for s in task.timing
    )  # fmt: skip


def a_run(
    root: Path, task: Task, *, evidence: Evidence = Evidence.MEASURED, held: bool = True, parameters: Any = None,
    trials: tuple[tuple[dict[str, Any], dict[str, float]], ...] = (), source: str = KERNEL,
) -> Run:  # fmt: skip
    """One submission, perhaps trials, perhaps a finale, as a journal."""
    folder = root / "submissions" / "made"
    create(folder, Meta(
        id="made", created=1.0, kopt="0", evaluator=1, task=task.name, task_sha=task.sha, target="h200",
        evidence=evidence, proposer="search", seed=0, budget={}, toolchain=TOOLCHAIN, machine={"driver": "580.1"},
    ))  # type: ignore[arg-type]  # fmt: skip
    parameters = parameters or {}
    submission = Submission(n=1, sha=digest(source, parameters), parameters=parameters, origin="search")
    write_whole(folder / "sources" / submission.file, source)
    times = measured(task, {})
    verdict = Verdict(
        submission=1, sha=submission.sha, status=Status.PASSED, score=0.5, evidence=evidence,
        stages=(StageResult(stage="policy", outcome=Outcome.PASSED),),
        measurements=times if evidence is Evidence.MEASURED else (), target="h200", toolchain=TOOLCHAIN, evaluator=1,
    )  # fmt: skip
    with Journal(folder / FILE) as log:
        log.append("proposed", submission=submission.model_dump(mode="json"))
        log.append("verdict", verdict=verdict.model_dump(mode="json"))
        for i, (point, us) in enumerate(trials, 1):
            trial = Trial(
                n=i, submission=1, parameters=point, status=Status.PASSED, score=0.5, evidence=evidence,
                measurements=measured(task, us),
            )  # fmt: skip
            log.append("trial", trial=trial.model_dump(mode="json"))
        if held:
            contest = the_contest(task, submission.sha)
            finale = Finale(
                winner=1, score=0.41, measurements=contest.measurements, quads=20, incumbent=1, submissions=1,
                target="h200", toolchain=TOOLCHAIN, evaluator=1, reason="measured again",
            )  # fmt: skip
            log.append("contest", contest=contest.model_dump(mode="json"))
            log.append("finale", finale=finale.model_dump(mode="json"))
    return Run.load(folder)


def the_contest(task: Task, sha: str = "x", *, status: Status = Status.PASSED, log: float = 0.0) -> Contest:
    passed = status is Status.PASSED
    return Contest(
        submission=1, sha=sha, status=status, score=0.41 if passed else None,
        measurements=measured(task, {}) if passed else (), processes=4,
        quads={s.name: tuple(log + 1e-4 * i for i in range(20)) for s in task.timing} if passed else {},
    )  # fmt: skip


def test_the_file_holds_the_verified_number_and_not_the_one_from_the_search(tmp_path: Path, blend: Task) -> None:
    run = a_run(tmp_path, blend, parameters={"TILE": 64})
    paths, record = publish(run, 1, blend, tmp_path)
    assert record.score == 0.41
    assert (record.quads, record.processes) == (20, 4)
    text = paths.kernel.read_text()
    assert "41.0 %" in text
    assert "50.0 %" not in text
    assert "MODELLED" not in text
    assert "torch 2.13.0, triton 3.7.1, evaluator" in text
    assert "driver 580.1" in text
    assert "SPDX-License-Identifier: Apache-2.0" in text
    assert find("blend", tmp_path)["h200"][1] == record
    assert json.loads(paths.record.read_text())["measurements"][0]["host_us"]["value"] == 100.0


def test_shares_by_shape_are_of_what_the_score_is_of(tmp_path: Path, blend: Task) -> None:
    _, record = publish(a_run(tmp_path, blend), 1, blend, tmp_path)
    shares = {"utilization": Quantity(value=0.012), "roofline": Quantity(value=0.731)}
    both = record.model_copy(update={"measurements": tuple(m.model_copy(update=shares) for m in record.measurements)})
    for metric, there, other in (("utilization", "1.2 %", "73.1 %"), ("roofline", "73.1 %", "1.2 %")):
        text = header(both.model_copy(update={"metric": metric}), blend)
        assert there in text
        assert other not in text


def test_what_lasting_load_makes_of_it_stands_apart(tmp_path: Path, blend: Task) -> None:
    _, record = publish(a_run(tmp_path, blend), 1, blend, tmp_path)
    (first, *_) = record.measurements
    assert "lasting" not in header(record, blend)
    slower = first.model_copy(update={"regime": "sustained", "host_us": Quantity(value=123.4)})
    text = header(record.model_copy(update={"measurements": (*record.measurements, slower)}), blend)
    before, after = text.split("Under lasting load, which is no part of that number:\n")
    assert "123.4 us" not in before
    assert "123.4 us" in after.splitlines()[0]


def test_a_published_file_keeps_the_contract_and_runs_as_chosen(tmp_path: Path, blend: Task) -> None:
    text = compose(KERNEL, blend, {"TILE": 64, "FAST": False}, {}, "top\n\nline")
    assert list(check(text, "blend", 4)) == []
    assert "TUNE" not in text
    assert "RUNG" not in text
    assert text.startswith('# top\n#\n# line\n\n"""A product')
    space: dict[str, Any] = {}
    exec(text, space)
    out = torch.empty(2, 3)
    space["blend"](torch.ones(2, 4), torch.tensor([2.0]), torch.ones(3, 4), out)
    assert space["SEEN"] == [(64, False)]
    assert torch.equal(out, torch.full((2, 3), 8.0))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("RUNG = 3", "RUNG = 3; X = 1"),
        ("RUNG = 3", "X = 1; RUNG = 3"),
        ("RUNG = 3", "X = 1; \\\nRUNG = 3"),
        ("RUNG = 3", "X = RUNG = 3"),
        ("RUNG = 3", "RUNG = (X := 3)"),
        ("RUNG = 3", "RUNG: (X := int) = 3"),
        ("RUNG = 3", "if True: X = 1; RUNG = 3"),
        ("SEEN = []", "SEEN = []\nX = len(TUNE)"),
        ("SEEN = []", 'SEEN = []\nX = globals()["TUNE"]'),
        ("}  # the space", "}; X = 1  # the space"),
        ("out.mul_(scale)", "out.mul_(scale + RUNG)"),
    ],
)
def test_what_else_a_file_says_is_published_as_it_was_judged(blend: Task, old: str, new: str) -> None:
    source = KERNEL.replace(old, new)
    assert source != KERNEL
    before, after = (ast.parse(text).body for text in (source, compose(source, blend, {"TILE": 64}, {}, "top")))
    pinned = [ast.dump(n).replace("value=16", "value=64") if isinstance(n, ast.FunctionDef) else ast.dump(n)
              for n in before]  # fmt: skip
    kept = [ast.dump(node) for node in after]
    gone = [line for line in pinned if line not in kept]
    assert kept == [line for line in pinned if line in kept]
    assert len(gone) == 1  # TUNE or RUNG: whichever stands alone, and nothing else tells of
    assert gone[0].startswith(("Assign(targets=[Name(id='TUNE'", "Assign(targets=[Name(id='RUNG'"))


def test_a_parameter_that_no_literal_can_say_is_refused(blend: Task) -> None:
    with pytest.raises(UsageError, match="parameter TILE is inf, which Python has no literal for"):
        compose(KERNEL, blend, {"TILE": float("inf")}, {}, "")
    with pytest.raises(UsageError, match="parameter TILE is nan"):
        compose(KERNEL, blend, {}, {"square": {"TILE": float("nan")}}, "")


@pytest.mark.parametrize("name", ["CONFIGURATIONS", "_tuned"])
def test_by_shape_no_name_of_the_author_is_taken(blend: Task, name: str) -> None:
    source = KERNEL.replace("SEEN = []", f"SEEN = []\n{name} = 1")
    space: dict[str, Any] = {}
    exec(compose(source, blend, {}, {"square": {"TILE": 64}}, ""), space)
    space["blend"](torch.ones(64, 96), torch.ones(1), torch.ones(48, 96), torch.empty(64, 48))
    assert space["SEEN"] == [(64, True)]
    assert space[name] == 1


def test_by_shape_a_file_takes_what_was_chosen_for_that_shape_and_elsewhere_what_the_nearest_does(blend: Task) -> None:
    again = KERNEL + "\n\ndef twice(*given):\n    blend(*given)\n    blend(*given)\n"
    text = compose(again, blend, {"TILE": 32}, {"square": {"TILE": 64}}, "")
    assert list(check(text, "blend", 4)) == []
    space: dict[str, Any] = {}
    exec(text, space)
    # The shapes that were measured, and two beside them.
    for m, n, k in ((64, 48, 96), (200, 16, 32), (70, 48, 90), (150, 20, 32), (0, 48, 96)):
        space["blend"](torch.ones(m, k), torch.ones(1), torch.ones(n, k), torch.empty(m, n))
    assert space["SEEN"] == [(64, True), (32, True), (64, True), (32, True), (64, True)]
    space["twice"](torch.ones(64, 96), torch.ones(1), torch.ones(48, 96), torch.empty(64, 48))
    assert space["SEEN"][5:] == [(32, True)] * 2  # what the author calls is the author's


def test_by_shape_a_tensor_of_another_rank_reaches_who_names_it(blend: Task) -> None:
    careful = KERNEL.replace(
        "    SEEN.append", "    if a.dim() != 2:\n        raise ValueError('a: it has no columns')\n    SEEN.append"
    )
    space: dict[str, Any] = {}
    exec(compose(careful, blend, {}, {"square": {"TILE": 64}}, ""), space)
    with pytest.raises(ValueError, match="a: it has no columns"):
        space["blend"](torch.ones(64), torch.ones(1), torch.ones(48, 96), torch.empty(64, 48))


def test_by_shape_rows_keep_to_120_columns_and_take_one_line_where_one_holds_them(blend: Task) -> None:
    rows = {n: compose(KERNEL, blend, {}, {"square": {"TILE": "x" * n}}, "").splitlines() for n in range(50, 90)}
    assert max(len(line) for lines in rows.values() for line in lines) == 120
    whole = [n for n, lines in rows.items() if any("# square" in line and "xxx" in line for line in lines)]
    assert whole == list(range(50, whole[-1] + 1))
    assert len(next(line for line in rows[whole[-1]] if "# square" in line)) == 120


def test_by_shape_a_tensor_may_be_called_like_what_is_chosen(blend: Task) -> None:
    source = KERNEL.replace("(a, scale", "(parameters, scale").replace("torch.mm(a,", "torch.mm(parameters,")
    space: dict[str, Any] = {}
    exec(compose(source, blend, {}, {"square": {"TILE": 64}}, ""), space)
    space["blend"](torch.ones(64, 96), torch.ones(1), torch.ones(48, 96), out := torch.empty(64, 48))
    assert space["SEEN"] == [(64, True)]
    assert (out == 96).all()


@pytest.mark.parametrize(
    ("how", "error", "says"),
    [
        ({"held": False}, MachineError, "not again"),
        ({"evidence": Evidence.MODELLED, "held": False}, UsageError, "never measured"),
    ],
)
def test_what_is_not_measured_and_verified_is_refused(
    tmp_path: Path, blend: Task, how: dict[str, Any], error: type[Exception], says: str
) -> None:
    run = a_run(tmp_path, blend, **how)
    with pytest.raises(error, match=says):
        publish(run, 1, blend, tmp_path)
    assert not (tmp_path / "kernels").exists()


def test_a_modelled_file_says_so_and_never_replaces_a_measured_one(tmp_path: Path, blend: Task) -> None:
    run = a_run(tmp_path / "one", blend, evidence=Evidence.MODELLED, held=False)
    paths, record = publish(run, 1, blend, tmp_path, modelled=True)
    assert "# MODELLED: no part of this file was timed" in paths.kernel.read_text()
    assert record.evidence is Evidence.MODELLED
    assert record.measurements == ()
    other = a_run(tmp_path / "two", blend)
    publish(other, 1, blend, tmp_path)
    with pytest.raises(UsageError, match="measured kernel"):
        publish(run, 1, blend, tmp_path, modelled=True)
    publish(run, 1, blend, tmp_path, modelled=True, force=True)


def test_a_task_that_has_changed_since_is_refused(tmp_path: Path, blend: Task) -> None:
    run = a_run(tmp_path, blend)
    (Path(blend.folder) / "task.py").write_text("# other\n" + (Path(blend.folder) / "task.py").read_text())
    with pytest.raises(UsageError, match="has changed"):
        publish(run, 1, content.read_task(Path(blend.folder)), tmp_path)


def test_parameters_by_shape_are_published_only_when_they_win_as_a_whole(tmp_path: Path, blend: Task) -> None:
    trials = (({"TILE": 64}, {"square": 50.0, "tall": 300.0}), ({"TILE": 32}, {"square": 99.0}))
    run = a_run(tmp_path, blend, trials=trials)
    asked: list[Rival | None] = []
    gains: list[float] = []

    def measure(source: str, parameters: Any, plan: Plan, rival: Rival | None) -> Contest:
        asked.append(rival)
        return the_contest(blend, log=gains[-1] if rival else 0.0)

    for gain, expected in ((0.0, {}), (-0.2, {"square": {"TILE": 64}})):
        asked.clear()
        gains.append(gain)
        paths, record = publish(run, 1, blend, tmp_path, measure=measure, force=True)
        assert record.configurations == expected
        assert ("CONFIGURATIONS" in paths.kernel.read_text()) is bool(expected)
        assert asked[0] == Rival(source=KERNEL)
        assert len(asked) == (2 if expected else 1)


@pytest.mark.parametrize("error", [HarnessError, MachineError])
def test_where_two_kernels_cannot_be_compared_the_verified_one_is_published(
    tmp_path: Path, blend: Task, error: type[Exception]
) -> None:
    run = a_run(tmp_path, blend, trials=(({"TILE": 64}, {"square": 50.0}),))

    def measure(source: str, parameters: Any, plan: Plan, rival: Rival | None) -> Contest:
        raise error("no room for three")

    _, record = publish(run, 1, blend, tmp_path, measure=measure)
    assert (record.configurations, record.score) == ({}, 0.41)


def test_what_fails_when_measured_for_publishing_is_refused(tmp_path: Path, blend: Task) -> None:
    run = a_run(tmp_path, blend, held=False)
    with pytest.raises(UsageError, match="measured again, it is wrong"):
        publish(run, 1, blend, tmp_path, measure=lambda *_: the_contest(blend, status=Status.WRONG))


# ------------------------------------------------------------------------------------------------------------ kopt.load


@pytest.fixture
def published(tmp_path: Path, blend: Task) -> Path:
    publish(a_run(tmp_path, blend, parameters={"TILE": 64}), 1, blend, tmp_path)
    return tmp_path


def given(m: int = 5, n: int = 4, k: int = 3) -> tuple[torch.Tensor, ...]:
    return torch.randn(m, k), torch.tensor([3.0]), torch.randn(n, k)


def test_load_gives_a_custom_op_that_torch_accepts(published: Path) -> None:
    op = kopt.load("blend", target="h200", workspace=published)
    a, scale, b = given()
    assert torch.allclose(op(a, scale, b), 3.0 * (a @ b.T))
    out = torch.empty(5, 4)
    op.out(a, scale, b, out)
    assert torch.equal(out, op(a, scale, b))
    torch.library.opcheck(op._call, (a, scale, b), test_utils=("test_schema", "test_faketensor"))
    torch.library.opcheck(op.out, (a, scale, b, out), test_utils=("test_schema", "test_faketensor"))
    assert kopt.load("blend", target="h200", workspace=published) is op


def test_a_loaded_op_works_under_torch_compile_at_changing_sizes(published: Path) -> None:
    op = kopt.load("blend", target="h200", workspace=published)

    @torch.compile(backend="aot_eager", fullgraph=True, dynamic=True)
    def layer(a: torch.Tensor, scale: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.relu(op(a, scale, b)) + 1.0

    for sizes in ((5, 4, 3), (7, 2, 9)):
        a, scale, b = given(*sizes)
        assert torch.allclose(layer(a, scale, b), torch.relu(3.0 * (a @ b.T)) + 1.0)


def test_a_loaded_op_names_the_tensor_that_does_not_fit(published: Path) -> None:
    op = kopt.load("blend", target="h200", workspace=published)
    a, scale, b = given()
    with pytest.raises(ValueError, match=r"b is torch\.float64, not float32"):
        op(a, scale, b.double())
    with pytest.raises(ValueError, match=r"b has shape \[4, 2\], not \[4, 3\]"):
        op(a, scale, b[:, :2])
    with pytest.raises(ValueError, match="a is not contiguous"):
        op(torch.randn(3, 5).T, scale, b)


def test_a_device_that_nothing_was_published_for_is_refused_by_name(published: Path) -> None:
    with pytest.raises(MachineError, match="only for NVIDIA H200"):
        kopt.load("blend", target="b200", workspace=published)
    if not torch.cuda.is_available():
        with pytest.raises(MachineError, match="these tensors are on cpu"):
            kopt.load("blend", workspace=published)(*given())


def test_nothing_published_is_said(tmp_path: Path, blend: Task) -> None:
    with pytest.raises(UsageError, match="no kernel of blend is published"):
        kopt.load("blend", workspace=tmp_path)


def test_a_file_that_was_changed_since_is_told(published: Path) -> None:
    path = published / "kernels" / "blend" / "published" / "h200.py"
    path.write_text(path.read_text() + "\nEXTRA = 1\n")
    with pytest.warns(UserWarning, match="not the file that was published"):
        kopt.load("blend", target="h200", workspace=published)(*given())


def test_the_command_line_publishes_and_refuses_in_one_line(tmp_path: Path, blend: Task) -> None:
    a_run(tmp_path, blend, evidence=Evidence.MODELLED, held=False)
    command = [sys.executable, "-m", "kopt", "--workspace", str(tmp_path), "publish", "made/best"]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 2
    assert refused.stderr.startswith("kopt: error: made/1 was never measured")
    assert len(refused.stderr.splitlines()) == 1
    done = subprocess.run([*command, "--modelled"], capture_output=True, text=True, check=True)
    assert "modelled 50.0 %" in done.stdout


def test_importing_kopt_loads_no_torch() -> None:
    code = "import sys, kopt; kopt.load; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_sizes_that_a_task_ties_together_are_held_to_that() -> None:
    import torch

    from kopt.publish.load import tied

    task = content.load_task("msa_prefill", Path(__file__).parents[1])
    dims = {"T": 3, "S": 9, "HQ": 8, "HKV": 1, "OFFSETS": 2}
    given = {t.name: torch.empty(t.sizes(dims)) for t in task.tensors}
    tied(task, given)
    other = {t.name: torch.empty(t.sizes({**dims, "HQ": 24})) for t in task.tensors}
    with pytest.raises(ValueError, match=r"HKV = 1, HQ = 24, but it must be that HQ == 16 \* HKV or HQ == 8 \* HKV"):
        tied(task, other)
