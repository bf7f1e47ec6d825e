"""The recorded session climbs for real: it replays what the model said, never a verdict."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from quick import kernel, session

from kopt import loop
from kopt.budget import Budget
from kopt.errors import HarnessError, UsageError
from kopt.loop import drive
from kopt.propose.episode import Episodes
from kopt.propose.scripted import RECORDINGS, load
from kopt.run import Run

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_demo_climbs_from_the_skeleton_through_the_landmarks(tmp_path: Path) -> None:
    """Its kernels are compiled, run against the reference and timed by the model; nothing is recorded but words."""
    for name in ("tasks", "kernels"):
        (tmp_path / name).symlink_to(ROOT / name)
    run = loop.start("fp8_gemm", target="h200", workspace=tmp_path, proposer="model:scripted", budget=Budget(trials=0))
    assert run.ended == "the proposer has nothing more to offer"
    assert str(run.entries[1].status) == "wrong"
    passed = [entry for entry in run if entry.score is not None]
    assert len(passed) == 6
    notes = [entry.submission.note for entry in passed]
    for note, landmark in zip(notes, ("baseline", "tuned", "diagnosed", "graph", "persistent", "host"), strict=True):
        assert landmark in note
    scores = [entry.score or 0.0 for entry in passed]
    assert scores[1] > 2 * scores[0]
    assert scores[2] > scores[1]
    assert run.incumbent is passed[-1]
    assert run.dialogue.episode is not None
    assert run.dialogue.episode.n == 2

    # The same words with one kernel broken, on another GPU: the kernel is wrong, and every number is another one.
    shutil.copytree(RECORDINGS / "fp8_gemm", tmp_path / "broken")
    kernel = tmp_path / "broken" / "02-configurations.py"
    both = "tl.load(scale_a_ptr) * tl.load(scale_b_ptr)"
    assert both in kernel.read_text()
    kernel.write_text(kernel.read_text().replace(both, "tl.load(scale_a_ptr)"))
    other = loop.start(
        "fp8_gemm", target="b200", workspace=tmp_path, proposer="model:scripted", name="other",
        budget=Budget(trials=0, submissions=4), driver=Episodes([load("fp8_gemm", tmp_path / "broken")]),
    )  # fmt: skip
    assert [str(entry.status) for entry in other] == ["wrong", "passed", "wrong", "passed"]
    for n in (2, 4):
        assert other.entries[n].score != run.entries[n].score


def test_a_recording_without_a_folder_for_the_task_names_those_there_are() -> None:
    with pytest.raises(UsageError, match="no recorded session for task axpy: --model scripted plays fp8_gemm"):
        load("axpy")


def test_a_broken_recording_names_the_line(tmp_path: Path) -> None:
    shutil.copytree(RECORDINGS / "fp8_gemm", tmp_path / "x")
    with (tmp_path / "x" / "session.jsonl").open("a") as file:
        file.write("{}\n")
    with pytest.raises(HarnessError, match=r"session.jsonl: line 13 is no recorded reply: 'choices'"):
        load("x", tmp_path / "x")


def _recording(folder: Path, score: float | None) -> Path:
    folder.mkdir()
    (folder / "k.py").write_text(kernel(score))
    arguments = {"source": {"$source": "k.py"}, "note": "A kernel"}
    call = {"id": "c", "function": {"name": "evaluate", "arguments": arguments}}
    reply = {"choices": [{"message": {"content": "Here.", "tool_calls": [call]}, "finish_reason": "tool_calls"}]}
    (folder / "session.jsonl").write_text(json.dumps(reply) + "\n")
    return folder


def test_breaking_a_kernel_of_the_recording_breaks_the_run(tmp_path: Path) -> None:
    runs: list[Run] = []
    for name, score in (("right", 0.3), ("broken", None)):
        with session(tmp_path, id=f"axpy-{name}") as live:
            drive(live, Episodes([load("axpy", _recording(tmp_path / name, score))]))
            runs.append(live.run)
    assert [str(run.entries[1].status) for run in runs] == ["passed", "wrong"]


def test_a_recording_costs_nothing_and_does_not_begin_again(tmp_path: Path) -> None:
    folder = _recording(tmp_path / "r", 0.3)
    for _ in range(2):
        with session(tmp_path) as live:
            drive(live, Episodes([load("axpy", folder)]))
    assert len(live.run.entries) == 1
    assert (live.run.charges.dollars, live.run.charges.unpriced) == (0.0, 0)
