"""A process that drives a run with a deterministic model, to be killed at any moment.

    python loopback_run.py WORKSPACE CALLS [URL]

The model's replies are a function of the conversation, as a real one's would be at temperature 0. It is part of this
process, or, with a URL, an OpenAI-compatible server that `replies` speaks through.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from providers import Handler, say
from quick import kernel, session

from kopt.budget import Budget
from kopt.loop import drive
from kopt.propose.conversation import Client, Conversation, Part, Pause, Reply, Tokens
from kopt.propose.episode import Episodes


class Deterministic:
    """Most of its calls read; about one in thirteen is a submission, some of them families, some of them broken."""

    name = "loopback"
    tools = True
    max_tokens = 1000
    context = 10_000_000

    def done(self, asked: int) -> bool:
        return False

    def highest_price(self, conversation: Conversation) -> float | None:
        return 0.001

    def ask(self, conversation: Conversation, tools: Sequence[Any], pause: Pause) -> Reply:
        said = conversation.opening + "".join(a.text for t in conversation.turns for a in t.answers)
        parts = [
            Part(kind="call", id=f"c{i}", name=name, arguments=json.dumps(arguments))
            for i, (name, arguments) in enumerate(calls(said, conversation.asked))
        ]
        return Reply(parts=tuple(parts), finish="calls", usage=Tokens(input=len(said), output=50), dollars=0.0001)

    def close(self) -> None:
        pass


def calls(said: str, asked: int) -> list[tuple[str, dict[str, Any]]]:
    """One to three calls that depend on what was said, and on how often the model was asked."""
    draw = int(hashlib.sha256(f"{asked}{said}".encode()).hexdigest()[:8], 16)
    return [_call(draw // 7**i, asked) for i in range(1 + draw % 3)]


def _call(draw: int, asked: int) -> tuple[str, dict[str, Any]]:
    kind = draw % 26
    if kind in (0, 1):
        tune = 'TUNE = {"BLOCK": [128, 256, 512, 1024]}\n' if kind else ""
        score = None if draw % 5 == 0 else 0.3 + (draw % 4000) / 10_000
        source = kernel(score, tune=tune, extra=f"N = {asked}")
        return "evaluate", {"source": source, "note": f"Idea {asked}: because", "trials": 4}
    if kind == 2:
        return "lesson", {"text": f"Lesson {asked}"}
    if kind == 3:
        return "read", {"submission": 1 + draw % 9}
    if kind == 4 and asked % 7 == 0:
        return "hand_over", {"summary": f"Until {asked}", "ideas": [f"direction {draw % 100}"]}
    return "history", {"count": 5}


def replies(handler: Handler, body: dict[str, Any]) -> None:
    """A step of a script of providers.py: the same model as a server, which remembers nothing between requests.

    An episode's last calls are lessons, so that no two episodes begin alike and the model does not go in circles.
    """
    said = json.dumps(body["messages"])
    number = int(hashlib.sha256(said.encode()).hexdigest()[:6], 16)
    ending = "tool calls left in this episode" in said
    say("", *([("lesson", {"text": f"Lesson {number}"})] if ending else calls(said, number)))(handler, body)


def main(workspace: Path, budget: int, url: str = "") -> None:
    client: Client = Deterministic()
    if url:
        from kopt.propose.model import ApiModel

        client = ApiModel(f"loopback@{url}/v1")
    with session(workspace, budget=Budget(tool_calls=budget)) as live:
        drive(live, Episodes([client], wait=lambda failed: 0.0))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
