"""A measurement that was made to be relied on, as a record."""

from __future__ import annotations

from kopt.evaluate.score import score
from kopt.judge.plan import Plan
from kopt.machine.products import Product
from kopt.records import Contest, Outcome, StageResult, Status, Submission, Task


def contest(
    task: Task, target: Product, submission: Submission, result: StageResult, plan: Plan, against: int | None = None
) -> Contest:
    """What the stage "measure" found of a submission under `plan`, `against` another or the baseline."""
    measured = tuple(result.artifacts.get("measurements", ()))
    passed = result.outcome is Outcome.PASSED
    return Contest(
        submission=submission.n,
        sha=submission.sha,
        parameters=submission.parameters,
        against=against,
        status=Status.PASSED if passed else next(f.status for f in result.findings if f.status),
        score=score(task, target, measured) if passed else None,
        measurements=measured,
        quads=result.facts.get("quads", {}),
        batches=min((shape.get("batches", 0) for shape in result.facts.get("shapes", {}).values()), default=0),
        processes=plan.processes,
        findings=result.findings,
        seconds=round(result.seconds, 3),
    )
