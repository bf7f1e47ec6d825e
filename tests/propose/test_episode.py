"""A model drives the run: what is said is on record before it is used, and a crash costs neither money nor text."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from quick import kernel, session

from kopt.budget import Budget
from kopt.journal import FILE, read
from kopt.loop import drive
from kopt.propose.brief import CALLS
from kopt.propose.conversation import Conversation, Part, Reply, RequestFailed, Tokens
from kopt.propose.episode import BARREN, Episodes
from kopt.run import Run

Say = Callable[[Conversation], Reply]


def call(name: str, id: str = "c1", **arguments: Any) -> Part:
    return Part(kind="call", id=id, name=name, arguments=json.dumps(arguments))


def says(*parts: Part | str, **over: Any) -> Reply:
    made = tuple(Part(kind="text", text=p) if isinstance(p, str) else p for p in parts)
    return Reply(parts=made, **{"usage": Tokens(input=1000, output=100), "finish": "stop", "dollars": 0.01, **over})


class Model:
    """Plays replies, or whatever a function of the conversation gives; counts what it was asked."""

    name = "test"
    tools = True
    max_tokens = 1000
    context = 200_000

    def __init__(self, *replies: Reply | Exception | Say, price: float | None = 0.02) -> None:
        self.replies = replies
        self.price = price
        self.heard: list[Conversation] = []
        self.offered: list[Sequence[Any]] = []

    def done(self, asked: int) -> bool:
        return len(self.heard) >= len(self.replies) and not callable(self.replies[-1])

    def highest_price(self, conversation: Conversation) -> float | None:
        return self.price

    def ask(self, conversation: Conversation, tools: Sequence[Any], pause: Callable[[], None]) -> Reply:
        self.heard.append(conversation)
        self.offered.append(tools)
        said = self.replies[min(len(self.heard), len(self.replies)) - 1]
        if isinstance(said, Exception):
            raise said
        return said if isinstance(said, Reply) else said(conversation)

    def close(self) -> None:
        pass


def run_with(tmp_path: Path, *models: Model, budget: Budget | None = None) -> Run:
    with session(tmp_path, budget=budget) as live:
        drive(live, Episodes(models, wait=lambda failed: 0.0))
        return live.run


def events(run: Run, type: str) -> list[dict[str, Any]]:
    return [event.payload for event in read(run.folder / FILE) if event.type == type]


def test_a_kernel_that_a_model_sends_becomes_a_submission_with_its_note(tmp_path: Path) -> None:
    run = run_with(tmp_path, Model(says(call("evaluate", source=kernel(0.3), note="First: it works"))))
    assert [(e.n, e.score, e.submission.note, e.submission.origin) for e in run] == [
        (1, 0.3, "First: it works", "model:test")
    ]


def test_the_reply_and_its_price_are_on_record_before_the_kernel_is(tmp_path: Path) -> None:
    run = run_with(tmp_path, Model(says(call("evaluate", source=kernel(0.3), note="n"))))
    types = [event.type for event in read(run.folder / FILE)]
    assert types.index("request") < types.index("reply") < types.index("proposed") < types.index("verdict")
    assert types.index("verdict") < types.index("tool")
    assert events(run, "request")[0]["reserved"] == 0.02
    assert run.charges.dollars == pytest.approx(0.01)
    assert (run.charges.tokens, run.charges.tool_calls, run.charges.requests) == (1100, 1, 1)


def test_a_result_reaches_the_model_with_the_id_of_its_call(tmp_path: Path) -> None:
    model = Model(says(call("history", "a"), call("read", "b", submission=9)), says("done"))
    run_with(tmp_path, model)
    answers = model.heard[1].turns[0].answers
    assert [(a.id, a.ok) for a in answers] == [("a", True), ("b", False)]
    assert "no submission 9" in answers[1].text


def test_an_episode_ends_with_its_hand_over_and_the_next_begins_with_what_was_handed(tmp_path: Path) -> None:
    model = Model(
        says(call("hand_over", summary="Tried nothing. Begin with loads.", ideas=["split the vector"])), says("x")
    )
    run_with(tmp_path, model)
    assert model.heard[1].turns == ()
    assert "Begin with loads." in model.heard[1].opening
    assert "split the vector" in model.heard[1].opening


def test_an_episode_ends_when_its_calls_are_spent(tmp_path: Path) -> None:
    model = Model(lambda c: says(call("history")))
    run = run_with(tmp_path, model, budget=Budget(tool_calls=CALLS + 1))
    assert max(len(c.turns) for c in model.heard) == CALLS - 1
    assert "1 tool calls left" in model.heard[CALLS - 1].turns[-1].answers[-1].text
    assert [e["why"] for e in events(run, "episode_end")] == [f"its {CALLS} tool calls are spent"]


def test_a_conversation_that_fills_the_context_is_ended(tmp_path: Path) -> None:
    big = Tokens(input=150_000, output=10)
    model = Model(says(call("history"), usage=big), says("x"))
    run_with(tmp_path, model)
    assert model.heard[1].turns == ()


def test_every_way_of_saying_nothing_is_answered_charged_and_ends_the_episode(tmp_path: Path) -> None:
    model = Model(says("I think that…"), says(""), Reply(finish="filter"), says("x"))
    run = run_with(tmp_path, model)
    assert [e["why"] for e in events(run, "tool")] == [
        "prose only", "an empty reply", "the provider's content filter ended the reply", "prose only",
    ]  # fmt: skip
    assert run.charges.tool_calls == 4
    assert model.heard[3].turns == ()


def test_a_model_that_never_acts_is_given_up_with_a_clear_line(tmp_path: Path) -> None:
    run = run_with(tmp_path, Model(lambda c: says("hm")))
    assert run.ended == f"test: {BARREN} episodes without a call that could be carried out"


def test_a_fence_counts_as_a_call_when_there_is_no_call(tmp_path: Path) -> None:
    run = run_with(tmp_path, Model(says(f"Wider blocks: fewer programs\n\n```python\n{kernel(0.4)}```\n")))
    assert [(e.score, e.submission.note) for e in run] == [(0.4, "Wider blocks: fewer programs")]


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (says(f"```python\n{kernel(0.1)}```\n```python\n{kernel(0.2)}```\n"), "2 kernels in one reply"),
        (says(f"```python\n{kernel(0.1)[:200]}", finish="length"), "the reply was cut at its token limit"),
    ],
)
def test_a_reply_that_cannot_be_read_for_sure_is_not_evaluated(tmp_path: Path, reply: Reply, why: str) -> None:
    run = run_with(tmp_path, Model(reply))
    assert len(run.entries) == 0
    assert events(run, "tool")[0]["why"] == why


def test_a_kernel_for_another_task_is_judged_and_refused_by_name(tmp_path: Path) -> None:
    model = Model(says("```python\ndef gemm(a, b):\n    return None\n```"), says("x"))
    run = run_with(tmp_path, model)
    assert [str(e.status) for e in run] == ["rejected"]
    assert "no function axpy()" in model.heard[1].turns[0].answers[0].text


@pytest.mark.parametrize(
    ("part", "answer"),
    [
        (Part(kind="call", id="1", name="evaluate", arguments='{"source": "x'), "not valid JSON"),
        (Part(kind="call", id="1", name="evaluate", arguments="[1]"), "must be a JSON object, not list"),
        (call("evaluate", source="x"), "note: missing"),
        (call("evaluate", source="x", note="n", speed="max"), "speed: unknown key"),
        (call("read", submission="two"), "submission: "),
        (call("evalute", source="x", note="n"), "did you mean evaluate?"),
        (call("rm", path="/"), "No tool 'rm': there are evaluate"),
        (call("evaluate", source="\ud800", note="n"), "unable to parse raw data as a unicode string"),
    ],
)
def test_a_malformed_call_is_answered_charged_and_the_run_goes_on(tmp_path: Path, part: Part, answer: str) -> None:
    model = Model(says(part), says(call("evaluate", source=kernel(0.5), note="n")))
    run = run_with(tmp_path, model)
    assert answer in model.heard[1].turns[0].answers[0].text
    assert run.charges.tool_calls == 2
    assert run.dialogue.refused == 1
    assert run.incumbent is not None


def test_a_duplicate_is_answered_without_an_evaluation(tmp_path: Path) -> None:
    again = '"""Another docstring."""\n# and a comment\n' + kernel(0.3).split('"""\n', 1)[1]
    model = Model(
        says(call("evaluate", source=kernel(0.3), note="n")), says(call("evaluate", source=again, note="better")),
        says(call("evaluate", source=kernel(0.3), note="pinned", parameters={"BLOCK": 256})), says("x"),
    )  # fmt: skip
    with session(tmp_path) as live:
        drive(live, Episodes([model]))
        assert live._evaluator.judged == 1  # type: ignore[attr-defined]
    for turn in model.heard[3].turns[1:]:
        assert "does what submission 1 does" in turn.answers[0].text
    assert live.run.charges.submissions == 1


def test_a_tuned_space_reports_its_best_point_and_records_it(tmp_path: Path) -> None:
    source = kernel(0.3, tune='TUNE = {"BLOCK": [128, 256, 512, 1024, 2048, 4096, 8192, 16384]}\n')
    model = Model(says(call("evaluate", source=source, note="Family: blocks", trials=4)), says("x"))
    run = run_with(tmp_path, model)
    assert run.charges.trials == 4
    assert "4 points tried" in model.heard[1].turns[0].answers[0].text
    promoted = run.entries[2]
    assert promoted.submission.parent == 1
    assert promoted.submission.note.startswith("Family, tuned: BLOCK 256 -> ")


def test_a_request_that_fails_is_repeated_and_on_record(tmp_path: Path) -> None:
    model = Model(
        RequestFailed("retry", "429 slow down"), RequestFailed("retry", "500 sorry"),
        says(call("evaluate", source=kernel(0.3), note="n")),
    )  # fmt: skip
    run = run_with(tmp_path, model)
    assert [e["reason"] for e in events(run, "request_failed")] == ["429 slow down", "500 sorry"]
    assert [e["attempt"] for e in events(run, "request")] == [1, 2, 3]
    assert run.charges.requests == 3
    assert run.incumbent is not None


def test_a_provider_that_never_answers_ends_the_run_with_its_reason(tmp_path: Path) -> None:
    run = run_with(tmp_path, Model(RequestFailed("retry", "connection refused")))
    assert run.ended == "test: connection refused (4 attempts)"


def test_a_refused_key_ends_the_run_at_once(tmp_path: Path) -> None:
    run = run_with(tmp_path, Model(RequestFailed("fatal", "the provider refused the key (401)")))
    assert run.ended == "test: the provider refused the key (401)"
    assert run.charges.requests == 1


def test_the_next_model_takes_over_when_one_is_at_its_end(tmp_path: Path) -> None:
    second = Model(says(call("evaluate", source=kernel(0.3), note="n")))
    second.name = "second"
    run = run_with(tmp_path, Model(RequestFailed("fatal", "no such model")), second)
    assert run.incumbent is not None
    assert run.incumbent.submission.origin == "model:second"
    assert run.dialogue.notices == ["test: no such model"]


def test_a_model_without_tool_calling_is_asked_for_fences(tmp_path: Path) -> None:
    model = Model(RequestFailed("tools", "tools are not supported"), says(f"Works\n```python\n{kernel(0.3)}```"))
    run = run_with(tmp_path, model)
    assert run.incumbent is not None
    assert (len(model.offered[0]), len(model.offered[1])) == (8, 0)
    assert "You have no tools here" in model.heard[1].brief
    assert "You have no tools here" not in model.heard[0].brief


def test_the_highest_price_of_a_request_must_be_left_before_it_is_sent(tmp_path: Path) -> None:
    model = Model(lambda c: says(call("history"), dollars=0.4), price=0.5)
    run = run_with(tmp_path, model, budget=Budget(dollars=1.0))
    assert len(model.heard) == 2
    assert run.ended == "the next request could cost $0.50, and $0.20 of the $1 are left"


def test_an_unknown_price_is_unknown_and_said(tmp_path: Path) -> None:
    model = Model(says(call("history"), dollars=None), price=None)
    run = run_with(tmp_path, model, budget=Budget(dollars=1.0))
    assert (run.charges.dollars, run.charges.unpriced) == (0.0, 1)
    assert run.dialogue.notices == [
        "test: its price is unknown, so $1 cannot be enforced; set --max-tokens to limit it"
    ]


def test_what_a_lost_request_may_have_cost_stays_charged(tmp_path: Path) -> None:
    class Dies(Exception):
        pass

    with session(tmp_path) as live, pytest.raises(Dies):
        drive(live, Episodes([Model(Dies(), price=0.25)]))
    with session(tmp_path) as live:
        assert live.run.charges.dollars == 0.25


def test_a_budget_of_zero_asks_nobody(tmp_path: Path) -> None:
    model = Model(says("x"))
    run = run_with(tmp_path, model, budget=Budget(tool_calls=0))
    assert (model.heard, run.ended) == ([], "the budget of 0 tool calls is spent")


def test_patience_ends_a_run_without_gains_and_nothing_else_does(tmp_path: Path) -> None:
    def worse(c: Conversation) -> Reply:
        n = len(model.heard)
        return says(call("evaluate", source=kernel(0.5 - n / 1000), note=f"Idea number {n}"))

    model = Model(worse)
    run = run_with(tmp_path, model, budget=Budget(patience=60))
    assert run.ended == "60 submissions without a gain: --patience 60"
    assert len(run.entries) == 61
