"""A bench as a table, as CSV, as JSON and as a figure."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from math import exp, log
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kopt.bench.rounds import Row
from kopt.errors import HarnessError
from kopt.meta import write_whole
from kopt.text import line, percent

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = (
    "kernel", "shape", "status", "us", "us_low", "us_high", "device_us", "tflops", "gbs", "utilization", "baseline",
    "baseline_low", "baseline_high", "clock_mhz", "power_w", "remarks",
)  # fmt: skip


def plain(row: Row) -> dict[str, Any]:
    """One row by the names of COLUMNS."""
    found: dict[str, Any] = {**row._asdict(), "remarks": "; ".join(row.remarks)}
    for name in ("us", "baseline"):
        quantity = found.pop(name)
        for key, attribute in ((name, "value"), (f"{name}_low", "low"), (f"{name}_high", "high")):
            found[key] = getattr(quantity, attribute) if quantity else None
    return {name: found[name] for name in COLUMNS}


def as_csv(rows: Sequence[Row]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(plain(row) for row in rows)
    return out.getvalue()


def means(rows: Sequence[Row]) -> dict[str, tuple[float | None, float | None]]:
    """Utilization and ratio to the baseline by kernel, geometric means over all shapes; None when one is missing."""
    kernels = dict.fromkeys(row.kernel for row in rows)
    of = {k: [row for row in rows if row.kernel == k] for k in kernels}
    return {
        kernel: (
            _mean([row.utilization for row in mine]),
            _mean([row.baseline.value if row.baseline else None for row in mine]),
        )
        for kernel, mine in of.items()
    }


def table(rows: Sequence[Row]) -> Table:
    from rich.table import Table
    from rich.text import Text

    columns = ["kernel", "shape", "us", "±", "TFLOPS", "GB/s", "% of peak", "x baseline", ""]
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bright_black")
    for name in columns:
        made.add_column(name, justify="left" if name in ("kernel", "shape", "") else "right", overflow="fold")
    mean = means(rows)
    several = len({row.shape for row in rows}) > 1
    for kernel in mean:
        mine = [row for row in rows if row.kernel == kernel]
        if all(row.us is None for row in mine):
            why = Text(f"{mine[0].status}: {line('; '.join(mine[0].remarks), 90)}", "yellow")
            made.add_row(line(kernel, 40), "", *[""] * 6, why)
            continue
        for i, row in enumerate(mine):
            made.add_row(
                line(kernel, 40) if i == 0 else "",
                row.shape,
                *_numbers(row),
                Text(line("; ".join(row.remarks), 60), "bright_black"),
            )
        if several:
            use, ratio = mean[kernel]
            shown = (Text(percent(use), "bold"), Text(f"{ratio:.3f}" if ratio else "", "bold"))
            made.add_row("", Text("all, geometric mean", "bold"), "", "", "", "", *shown, "")
    return made


def _numbers(row: Row) -> tuple[str, ...]:
    if row.us is None:
        return ("",) * 6
    half = (row.us.high - row.us.low) / 2 / row.us.value if row.us.low is not None and row.us.high is not None else None
    return (
        f"{row.us.value:.1f}",
        f"{100 * half:.1f} %" if half is not None else "",
        f"{row.tflops:.0f}" if row.tflops else "",
        f"{row.gbs:.0f}" if row.gbs else "",
        percent(row.utilization),
        f"{row.baseline.value:.3f}" if row.baseline else "",
    )


def write_text(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
    except OSError as error:
        raise HarnessError(f"cannot write {path}: {error.strerror}") from error


def figure(rows: Sequence[Row], title: str, path: Path) -> None:
    """Bars by shape and kernel: % of the peak where there is one, else the ratio to the baseline; PNG, SVG or PDF."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from kopt.report.style import INK, settings

    peak = any(row.utilization is not None for row in rows)
    kernels, shapes = list(dict.fromkeys(r.kernel for r in rows)), list(dict.fromkeys(r.shape for r in rows))
    values = {(r.kernel, r.shape): _value(r, peak) for r in rows}
    kernels = [k for k in kernels if any(values.get((k, s)) for s in shapes)]
    style: Any = settings()
    with mpl.rc_context(style):
        drawn = Figure(figsize=(10, 1.2 + 0.28 * max(1, len(kernels)) * len(shapes)), layout="constrained")
        FigureCanvasAgg(drawn)
        axes = drawn.add_subplot()
        height = 0.8 / max(1, len(kernels))
        colours = mpl.colormaps["viridis"]
        for i, kernel in enumerate(kernels):
            at = [j + (i - (len(kernels) - 1) / 2) * height for j in range(len(shapes))]
            lengths = [values.get((kernel, s)) or 0.0 for s in shapes]
            axes.barh(at, lengths, height * 0.9, label=kernel, color=colours(0.1 + 0.8 * i / max(1, len(kernels) - 1)))
            for y, x in zip(at, lengths, strict=True):
                if x:
                    axes.text(x, y, f" {x:.1f} %" if peak else f" {x:.2f}", va="center", fontsize=8, color=INK)
        axes.set_yticks(range(len(shapes)), shapes)
        axes.invert_yaxis()
        axes.set_xlabel("% of the data-sheet peak" if peak else "x baseline")
        axes.set_title(title, loc="left")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            drawn.savefig(path, dpi=160, facecolor="white")
        except (OSError, ValueError) as error:
            raise HarnessError(f"cannot write {path}: {error}") from error


def _value(row: Row, peak: bool) -> float | None:
    if peak:
        return 100 * row.utilization if row.utilization is not None else None
    return row.baseline.value if row.baseline else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None and v > 0]
    return exp(sum(map(log, known)) / len(known)) if known and len(known) == len(values) else None
