"""What the reading tools show is short, selected, and about what was asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from quick import kernel, session

from kopt.errors import UsageError
from kopt.interact.tools import Toolbox
from kopt.interact.views import Views
from kopt.journal import FILE, read
from kopt.session import Session


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Session]:
    with session(tmp_path) as made:
        made.submit(kernel(0.3), note="First: it works", origin="search")
        made.submit(kernel(None), note="Broken", origin="search", parent=1)
        made.submit(kernel(0.4, block=512), note="Wider", origin="search", parent=1)
        yield made


def test_a_diff_is_against_the_parent_unless_said(live: Session) -> None:
    views = Views(live)
    diff = views.read(3, "diff", None)
    assert "-SCORE = 0.3" in diff
    assert "+SCORE = 0.4" in diff
    assert "From submission 2 to 3" in views.read(3, "diff", 2)
    with pytest.raises(UsageError, match="has no parent"):
        views.read(1, "diff", None)


def test_a_verdict_says_what_failed(live: Session) -> None:
    assert "numerics.bound: ragged: out[3]: got 1.5" in Views(live).read(2, "verdict", None)


def test_history_comes_by_time_by_score_or_by_failure(live: Session) -> None:
    views = Views(live)
    assert [line[:3] for line in views.history("recent", 2).splitlines()[1:]] == ["- 2", "- 3"]
    assert [line[:3] for line in views.history("best", 9).splitlines()[1:]] == ["- 3", "- 1"]
    assert [line[:3] for line in views.history("failed", 9).splitlines()[1:]] == ["- 2"]


def test_the_profile_shows_terms_and_facts_of_the_best_one(live: Session) -> None:
    text = Views(live).profile(None)
    assert "Submission 3 on NVIDIA H200" in text
    assert "hbm 3.0, launch 2.5, l2 1.2" in text
    assert "registers 26" in text


def test_sass_shows_the_hot_loop_by_source_line_and_in_order(live: Session) -> None:
    text = Views(live).sass(None, "")
    assert "LDG 4, FFMA 8" in text
    assert "| import triton" in text
    assert "     0 LDG.E.128 R4, [R2.64]\n       … 8 others: FFMA x8\n    90 BRA 0x40" in text
    with pytest.raises(UsageError, match="has no kernel 'nothing'; it has axpy_kernel"):
        Views(live).sass(3, "nothing")


def test_without_a_score_one_has_to_name_a_submission(tmp_path: Path) -> None:
    with session(tmp_path) as made:
        result = Toolbox(made, "mcp").call("profile", {})
    assert (result.ok, result.text) == (False, "no submission has a score yet: name one")


def test_every_call_is_journaled_with_its_time_and_charged(live: Session) -> None:
    box = Toolbox(live, "mcp")
    for name, arguments in (("history", {}), ("lesson", {"text": "Rows wrap."}), ("screen", {"source": kernel(0.1)})):
        assert box.call(name, arguments).ok
    assert live.run.charges.tool_calls == 3
    assert live.run.lessons == ["Rows wrap."]
    assert live.run.dialogue.tools == {"history": 1, "lesson": 1, "screen": 1}
    assert len(live.run.entries) == 3


def test_a_lesson_whose_answer_a_crash_has_lost_is_kept_once(live: Session) -> None:
    live.lesson("Rows wrap.", call="1.2.1")
    assert Toolbox(live, "model:x").call("lesson", {"text": "Rows wrap."}, key="1.2.1", episode=1).text == "Kept."
    assert Toolbox(live, "model:x").call("lesson", {"text": "Rows wrap."}, key="1.2.2", episode=1).ok
    assert live.run.lessons == ["Rows wrap.", "Rows wrap."]


def test_a_refused_call_leaves_little_in_the_journal(live: Session) -> None:
    before = (live.run.folder / FILE).stat().st_size
    deep: list[object] = []
    for _ in range(5000):
        deep = [deep]
    box = Toolbox(live, "mcp")
    for arguments in (
        {"source": "x" * (3 << 20)},
        {"source": deep},
        {"y" * (1 << 20): 1},
        {"parameters": {"a": "b" * 9999}},
    ):
        assert not box.call("screen", arguments).ok
    assert not box.call("hand_over", {"summary": "s", "ideas": ["i" * (1 << 20)]}).ok
    assert (live.run.folder / FILE).stat().st_size - before < 30_000
    assert len(list(read(live.run.folder / FILE))) == live.run.dialogue.refused + 7


@pytest.mark.parametrize(
    "parameters",
    [{"A": "\ud800"}, {"\ud800": 1}, {"A": float("nan")}, {"A": float("inf")}, {"A": 10**400}, {"A": "x" * 201}],
    ids=["surrogate", "surrogate name", "nan", "inf", "huge", "long"],
)
def test_parameters_that_no_journal_could_give_back_are_refused(live: Session, parameters: dict[str, Any]) -> None:
    arguments = {"source": kernel(0.5), "note": "n", "parameters": parameters}
    result = Toolbox(live, "mcp").call("evaluate", arguments)
    assert (result.ok, "nothing was done" in result.text, len(live.run.entries)) == (False, True, 3)
    with pytest.raises(UsageError, match="parameters: "):
        live.submit(kernel(0.5), note="n", origin="search", parameters=parameters)
