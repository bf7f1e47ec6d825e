"""The tools: each call is validated, carried out, answered in a few lines, journaled with its time, and charged."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

from pydantic import ValidationError

from kopt.content import explain
from kopt.errors import HarnessError, KoptError
from kopt.interact import arguments as args
from kopt.interact.views import Views
from kopt.propose.feedback import Tuned, changed, feedback, screened
from kopt.run import TrialRow
from kopt.session import Session
from kopt.text import headline, line

TRIALS = 8
"""Points tried for a submission that declares TUNE and asks for no number: two batches of the tuner."""
GAIN = 0.01
"""Relative gain over the submission itself that makes its best point a submission too."""
ARGUMENTS = 4000
"""Characters of each argument kept in the event of a call that no journaled reply holds."""


class Result(NamedTuple):
    """The answer to one call."""

    ok: bool
    text: str
    submission: int | None = None
    ends: bool = False
    """The caller's episode is over."""


class Refused(Exception):
    """A call that cannot be carried out as it was made; its text is the answer."""


class Toolbox:
    """All tools on one session, on behalf of one caller.

    `origin` is who the submissions come from: "model:<name>", "agent", "mcp".
    """

    def __init__(self, session: Session, origin: str) -> None:
        self._session = session
        self._origin = origin
        self._views = Views(session)
        self.handed_over: args.HandOver | None = None

    def call(
        self,
        name: str,
        arguments: Mapping[str, Any] | str,
        *,
        key: str = "",
        episode: int | None = None,
        keep: bool = True,
    ) -> Result:
        """Carry out one call. `arguments` may be JSON text, as a model wrote it.

        `key` identifies the call within the run, so that one repeated after a crash finds its own submission. `keep`
        says that no other event holds the arguments. Raises Stop when the budget is spent, HarnessError when kopt is
        broken; everything else is an answer.
        """
        session = self._session
        with session.call() as charge:
            started, screened_before = time.monotonic(), self._views.seconds
            session.waited()
            try:
                parsed = parse(name, arguments)
                result = self._carry_out(parsed, key)
            except Refused as refusal:
                result = Result(False, str(refusal))
            except HarnessError:
                raise
            except KoptError as error:
                result = Result(False, line(str(error), 1000))
            event: dict[str, Any] = {
                "name": line(name, 60),
                "ok": result.ok,
                "text": result.text,
                "seconds": round(time.monotonic() - started, 3),
                "queued": round(session.waited(), 3),
            }
            if (spent := self._views.seconds - screened_before) > 0:
                event["screened"] = round(spent, 3)
            if result.submission is not None:
                event["submission"] = result.submission
            if keep:
                event["arguments"] = _kept(name, arguments, result)
            if key:
                event["key"] = key
            if episode is not None:
                event["episode"] = episode
            charge(origin=self._origin, **event)
        return result

    def nothing(self, why: str, text: str, *, key: str, episode: int) -> None:
        """A reply that asked for nothing is charged like a call, or it could go on for ever."""
        self._session.record(
            "tool", origin=self._origin, name="", ok=False, why=why, text=text, seconds=0.0, key=key, episode=episode
        )

    def _carry_out(self, call: args.Arguments, key: str) -> Result:
        match call:
            case args.Evaluate():
                return self._evaluate(call, key)
            case args.Screen():
                return Result(True, screened(self._views.screen(call.source, call.parameters)))
            case args.Read():
                return Result(True, self._views.read(call.submission, call.what, call.against))
            case args.History():
                return Result(True, self._views.history(call.order, call.count))
            case args.Profile():
                return Result(True, self._views.profile(call.submission))
            case args.Sass():
                return Result(True, self._views.sass(call.submission, call.kernel))
            case args.Lesson():
                self._session.lesson(call.text, call=key)
                return Result(True, "Kept.")
            case args.HandOver():
                self.handed_over = call
                return Result(True, "Handed over.", ends=True)
        raise AssertionError(f"no such call: {call!r}")

    def _evaluate(self, call: args.Evaluate, key: str) -> Result:
        session = self._session
        run = session.run
        known = session.known(call.source, call.parameters)
        own = known is not None and bool(key) and run.entry(known).call == key
        if known is not None and not own:
            verdict = run.verdict(known)
            if verdict is not None:
                return Result(True, feedback(run, known, verdict, duplicate=True), known)
        parent = call.parent
        if parent is not None and not own:
            run.entry(parent)
        verdict = session.submit(
            call.source, note=call.note, origin=self._origin, parent=parent, parameters=call.parameters, call=key
        )
        n = verdict.submission
        tuned = self._tune(n, call, key) if verdict.passed and call.trials != 0 else None
        return Result(True, feedback(run, n, verdict, tuned=tuned), n)

    def _tune(self, n: int, call: args.Evaluate, key: str) -> Tuned | None:
        """Try the submission's TUNE space; its best point becomes a submission when it gains enough."""
        from kopt.evaluate import tuner

        session = self._session
        entry = session.run.entry(n)
        described = session.describe(call.source)
        free = {name: c for name, c in described.tune.items() if name not in entry.submission.parameters}
        if not free:
            return None
        # Whole batches, counted from the submission's first: a call repeated after a crash tries no more than before.
        wanted = -(-(call.trials or TRIALS) // tuner.BATCH) * tuner.BATCH
        if (missing := wanted - len(entry.trials)) > 0:
            session.tune(n, missing)
        rows = [row for row in entry.trials if row.score is not None]
        best = max(rows, key=lambda row: row.score or 0.0, default=None)
        shares = tuner.importance(free, entry.trials)
        if best is None or (best.score or 0.0) <= (entry.score or 0.0):
            return Tuned(len(entry.trials), None, None, shares, None)
        promoted = self._promote(n, call, best, described.defaults, key)
        return Tuned(len(entry.trials), best.parameters, best.score, shares, promoted)

    def _promote(
        self, n: int, call: args.Evaluate, best: TrialRow, defaults: Mapping[str, Any], key: str
    ) -> int | None:  # fmt: skip
        session = self._session
        entry = session.run.entry(n)
        if (best.score or 0.0) <= (entry.score or 0.0) * (1 + GAIN):
            return None
        pinned = {**entry.submission.parameters, **best.parameters}
        verdict = session.submit(
            call.source,
            note=f"{headline(call.note, 60)}, tuned: {changed(defaults, pinned)}",
            origin=self._origin,
            parent=n,
            parameters=pinned,
            call=f"{key}.tuned" if key else "",
        )
        return verdict.submission


def parse(name: str, arguments: Mapping[str, Any] | str) -> args.Arguments:
    """The validated call; Refused names the tool, the argument and the mend."""
    if name not in args.TOOLS:
        near = get_close_matches(name[:60], args.TOOLS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(args.TOOLS)}"
        raise Refused(f"No tool {line(name, 60)!r}: {hint}")
    kind = args.TOOLS[name][0]
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}", strict=False)
        except (ValueError, RecursionError) as error:
            raise Refused(f"{name}: the arguments are not valid JSON ({error}); nothing was done") from None
    if not isinstance(arguments, Mapping):
        raise Refused(f"{name}: the arguments must be a JSON object, not {type(arguments).__name__}; nothing was done")
    try:
        return kind.model_validate(dict(arguments))
    except ValidationError as error:
        problems = "; ".join(line(text, 200) for _, text in zip(range(4), explain(error), strict=False))
        takes = ", ".join(
            f"{key}{'' if field.is_required() else ' (optional)'}" for key, field in kind.model_fields.items()
        )
        raise Refused(f"{name}: {problems}. It takes {takes}; nothing was done") from None


def definitions() -> list[tuple[str, str, dict[str, Any]]]:
    """Name, description and JSON schema of every tool."""
    return [(name, text, args.schema(name)) for name, (_, text) in args.TOOLS.items()]


def _kept(name: str, arguments: Mapping[str, Any] | str, result: Result) -> Any:
    """Arguments as the journal keeps them: those of the tool, each cut, so that no caller can make it large or deep.

    The source of a submission lies in sources/ already.
    """
    if isinstance(arguments, str):
        return arguments[:ARGUMENTS]
    fields = args.TOOLS[name][0].model_fields if name in args.TOOLS else ()
    kept = {key: _cut(arguments[key]) for key in fields if key in arguments}
    if result.submission is not None and "source" in kept:
        kept["source"] = f"submission {result.submission}"
    return kept


def _cut(value: Any) -> str | int | float | None:
    """A plain value as it is, all else as text of its first ARGUMENTS characters."""
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int) and value.bit_length() < 64:
        return value
    if isinstance(value, str):
        return value[:ARGUMENTS]
    try:
        return json.dumps(value, ensure_ascii=False, default=str)[:ARGUMENTS]
    except (ValueError, RecursionError) as error:
        return f"cannot be written: {error}"
