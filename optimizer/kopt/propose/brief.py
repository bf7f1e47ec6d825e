"""What a model sees before anything else: the task, the contract, the machine, the budget and how to act.

The same for every episode of a run, and first in every request, so that a provider's prompt cache can hold it.
"""

from __future__ import annotations

from collections.abc import Sequence

from kopt import content
from kopt.budget import Budget
from kopt.errors import UsageError
from kopt.machine.products import Product, product
from kopt.propose.templates import clip, fence, render
from kopt.records import Task, TensorSpec

CALLS = 40
"""Tool calls an episode may have: three submissions' worth at the dozen calls each that long runs have shown."""

DESCRIPTION = 6000
"""Characters of the task's README that are shown."""


def brief(task: Task, target: str, budget: Budget, *, measured: bool, tools: str) -> str:
    """`measured` says whether scores will be measured; `tools` is how to act: see `with_tools` and `fenced`."""
    return render(
        "brief",
        title=task.title,
        description=clip(_description(task), DESCRIPTION),
        signature=f"def {task.entry}({', '.join(t.name for t in task.tensors)}, *, BLOCK_M=128, ...):",
        tensors="\n".join(_tensor(t) for t in task.tensors),
        dims=_dims(task),
        library="" if task.provenance.library else ", calling torch or a vendor's library for the work",
        tolerance=f"{task.tolerance.relative_rms:g}",
        exact=_exact(task),
        shapes="\n".join(f"- {shape}" for shape in task.timing),
        metric=_metric(task, product(target)),
        evidence=_evidence(measured),
        machine=_machine(product(target), task.score.peak),
        budget=budget_text(budget),
        skeleton=fence(content.skeleton(task)),
        tools=tools,
    )


def with_tools() -> str:
    return render("tools", calls=CALLS)


def fenced(tools: Sequence[tuple[str, str]]) -> str:
    """`tools` are names and descriptions."""
    return render("fenced", calls=CALLS, list="\n".join(f"- {name}: {text}" for name, text in tools))


def budget_text(budget: Budget) -> str:
    """The limits that are set, in words."""
    names = {
        "submissions": "{:g} submissions",
        "trials": "{:g} points for kopt's tuner",
        "minutes": "{:g} minutes",
        "tool_calls": "{:g} tool calls",
        "tokens": "{:,} tokens",
        "dollars": "${:g}",
    }
    limits = [text.format(value) for name, text in names.items() if (value := getattr(budget, name)) is not None]
    if budget.patience is not None:
        limits.append(f"{budget.patience} submissions without a gain")
    return f"{', '.join(limits)}." if limits else "no limit."


def _description(task: Task) -> str:
    try:
        text = content.description(task)
    except UsageError:  # a task need not have a README; its declaration follows anyway
        return task.title
    # The title is said already.
    return text.split("\n", 1)[1] if text.startswith("# ") and "\n" in text else text


def _tensor(tensor: TensorSpec) -> str:
    sizes = ", ".join(str(size) for size in tensor.dims)
    return f"- {tensor.name} [{sizes}] {tensor.dtype}, {tensor.role}"


def _dims(task: Task) -> str:
    parts = []
    for name, dim in task.dims.items():
        text = f"{name} from {dim.min}"
        text += f" to {dim.max}" if dim.max is not None else " up"
        if dim.multiple_of > 1:
            text += f", a multiple of {dim.multiple_of}"
        parts.append(text)
    return "; ".join(parts) + "."


def _exact(task: Task) -> str:
    names = ", ".join(task.tolerance.exact_inputs)
    return f"; bit for bit on the input families {names}" if names else ""


def _metric(task: Task, target: Product) -> str:
    if task.score.metric == "roofline":
        return "the roofline time over the kernel's time"
    peak = target.peak(task.score.peak)
    number = f" of {peak:g} TFLOPS" if peak else ", which is unknown for this product"
    return f"utilization: the task's FLOPs over time, as a fraction of the dense {task.score.peak} peak{number}"


def _evidence(measured: bool) -> str:
    if measured:
        return (
            "Times are measured on the GPU by a process that your file cannot reach, on inputs that it does not know; "
            "results are checked again there, on shapes that you do not see."
        )
    return (
        "There is no GPU here: your kernel is compiled for the target, checked in an interpreter, and its time is "
        "modelled from what the compiler made of it. The model ranks kernels well and is 10 to 35 % off in time."
    )


def _machine(target: Product, peak: str) -> str:
    tflops = target.peak(peak)
    return "\n".join(
        (
            f"- {target.name}, compute capability {target.arch / 10:.1f}, {target.sms} SMs, "
            f"up to {target.max_clock_mhz:g} MHz",
            f"- dense {peak} peak: {f'{tflops:g} TFLOPS' if tflops else 'unknown'}",
            f"- device memory {target.hbm_tbs:g} TB/s, L2 {target.l2_bytes >> 20} MiB",
            f"- a block may have {target.shared_per_block / 1024:.0f} KiB of shared memory; an SM has "
            f"{target.registers_per_sm} registers and {target.threads_per_sm} threads",
        )
    )
