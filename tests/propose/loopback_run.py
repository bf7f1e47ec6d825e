"""A process that drives a run with a deterministic model, to be killed at any moment: python loopback_run.py WORKSPACE.

The model's replies are a function of the conversation, as a real one's would be at temperature 0.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from quick import kernel, session

from kopt.budget import Budget
from kopt.loop import drive
from kopt.propose.conversation import Conversation, Part, Pause, Reply, Tokens
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
        draw = int(hashlib.sha256(f"{conversation.asked}{said}".encode()).hexdigest()[:8], 16)
        calls = [self._call(draw // 7**i, conversation.asked, i) for i in range(1 + draw % 3)]
        return Reply(parts=tuple(calls), finish="calls", usage=Tokens(input=len(said), output=50), dollars=0.0001)

    def close(self) -> None:
        pass

    def _call(self, draw: int, asked: int, i: int) -> Part:
        name, arguments = "history", {"count": 5}
        kind = draw % 26
        if kind in (0, 1):
            tune = 'TUNE = {"BLOCK": [128, 256, 512, 1024]}\n' if kind else ""
            score = None if draw % 5 == 0 else 0.3 + (draw % 4000) / 10_000
            name, arguments = "evaluate", {
                "source": kernel(score, tune=tune, extra=f"N = {asked}"), "note": f"Idea {asked}: because", "trials": 4,
            }  # fmt: skip
        elif kind == 2:
            name, arguments = "lesson", {"text": f"Lesson {asked}"}
        elif kind == 3:
            name, arguments = "read", {"submission": 1 + draw % 9}
        elif kind == 4 and asked % 7 == 0:
            name, arguments = "hand_over", {"summary": f"Until {asked}", "ideas": [f"direction {draw % 100}"]}
        return Part(kind="call", id=f"c{i}", name=name, arguments=json.dumps(arguments))


def main(workspace: Path, calls: int) -> None:
    with session(workspace, budget=Budget(tool_calls=calls)) as live:
        drive(live, Episodes([Deterministic()], wait=lambda failed: 0.0))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
