"""Puts an index family and an attention family into one self-contained file of kernels/msa_prefill.

    python -m kopt.msa.compose [FOLDER]         writes the files of FAMILIES into FOLDER/msa_prefill (default: kernels)

Every name that a source file defines gets a prefix that tells where it is from; nothing else is changed, so that a
composed family computes what its parts compute. Up to 2,048 keys every visible block is listed: there the index is left
out and attention is dense, by the kernel in dense.py.in.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from dataclasses import dataclass
from pathlib import Path

from kopt.source import KernelSource, parse

_LEFT_OUT = ("RUNG", "CLASS", "TUNE")


@dataclass(frozen=True)
class Family:
    """A file of kernels/msa_prefill and what it is made of."""

    name: str
    rung: int
    index: str
    attend: str
    summary: str


FAMILIES = (
    Family("plain", 1, "plain", "q_outer", "Q-outer: scores in memory, the best 16 from there, one query at a time."),
    Family("union", 2, "fused", "union", "Union tile: no score in memory, neighbours share their lists' union."),
    Family("kv_outer", 3, "fused", "kv_outer", "KV-outer: no score in memory, keys and values read once."),
    Family("adaptive", 4, "fused", "adaptive", "Union tile or KV-outer: tile by tile, as lists have it."),
)


def compose(family: Family, kernels: Path) -> str:
    """The text of a family, from the files under `kernels`."""
    parts = {
        "index": parse((kernels / "msa_index" / f"{family.index}.py").read_text(encoding="utf-8"), "msa_index"),
        "attend": parse((kernels / "msa_attend" / f"{family.attend}.py").read_text(encoding="utf-8"), "msa_attend"),
        "dense": parse((Path(__file__).parent / "dense.py.in").read_text(encoding="utf-8"), "dense"),
    }
    descriptors = any("TensorDescriptor" in part.text for part in parts.values())
    tune = {"INDEX_" + name: choices for name, choices in parts["index"].tune.items()}
    tune |= {"ATTEND_" + name: choices for name, choices in parts["attend"].tune.items()}
    tune["DENSE_UP_TO"] = (0, 1024, 2048)
    lines = [
        f'"""{family.summary}',
        "",
        f"Composed by `python -m kopt.msa.compose` from kernels/msa_index/{family.index}.py,",
        f"kernels/msa_attend/{family.attend}.py and optimizer/kopt/msa/dense.py.in: change those, not this file.",
        '"""',
        "",
        "from __future__ import annotations",
        "",
        "import torch",
        "import triton",
        "import triton.language as tl",
        *(["from triton.tools.tensor_descriptor import TensorDescriptor"] if descriptors else []),
        "",
        f"RUNG = {family.rung}",
        f'CLASS = "{family.name.replace("_", "-")}"',
        "TUNE = {",
        *(f'    "{name}": {list(choices)},' for name, choices in tune.items()),
        "}",
    ]
    text = "\n".join(lines) + "\n"
    for name, part in parts.items():
        text += "\n\n" + f"# {'-' * 20} {name}\n\n" + prefixed(part, name)
    return text + "\n\n" + _entry(parts)


def prefixed(part: KernelSource, prefix: str) -> str:
    """A source without docstring, imports and ladder constants, its own names with a prefix."""
    skipped: set[int] = set()
    names: set[str] = set()
    for at, node in enumerate(part.tree.body):
        targets = [t.id for t in getattr(node, "targets", []) if isinstance(t, ast.Name)]
        docstring = at == 0 and isinstance(node, ast.Expr)
        if docstring or isinstance(node, ast.Import | ast.ImportFrom) or set(targets) & set(_LEFT_OUT):
            skipped |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
        elif isinstance(node, ast.FunctionDef):
            names.add(node.name)
        names |= set(targets) - set(_LEFT_OUT)
    kept = [line for number, line in enumerate(part.text.splitlines(keepends=True), 1) if number not in skipped]
    return _renamed("".join(kept).strip("\n") + "\n", names, prefix)


def _renamed(text: str, names: set[str], prefix: str) -> str:
    """Text in which each of the names, wherever it is not an attribute, begins with the prefix."""
    lines = text.splitlines(keepends=True)
    before = ""
    found: list[tuple[int, int, str]] = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.NAME and token.string in names and before != ".":
            found.append((*token.start, token.string))
        before = token.string
    for row, column, name in reversed(found):
        line = lines[row - 1]
        new = f"{prefix.upper()}_{name}" if name.isupper() else f"{prefix}_{name}"
        lines[row - 1] = line[:column] + new + line[column + len(name) :]
    return "".join(lines)


def _entry(parts: dict[str, KernelSource]) -> str:
    """The function that callers see."""

    def parameters(name: str) -> list[tuple[str, object]]:
        part = parts[name]
        return [(key, part.defaults[key]) for key in part.tune]

    index, attend = parameters("index"), parameters("attend")
    declared = [f"INDEX_{k}={v!r}" for k, v in index] + [f"ATTEND_{k}={v!r}" for k, v in attend]
    return f"""def msa_prefill(
    q, k, v, iq, ik, cu_q, cu_k, out, *,
    {", ".join(declared[: len(index)])},
    {", ".join(declared[len(index) :])}, DENSE_UP_TO=2048,
):  # fmt: skip
    dense_check(q, k, v, iq, ik, cu_q, cu_k, out)
    if k.shape[0] <= DENSE_UP_TO:  # no sequence is longer: whatever the index says, all of it is attended to
        dense_dense(q, k, v, cu_q, cu_k, out)
        return
    ids = torch.empty((k.shape[1], q.shape[0], 16), dtype=torch.int32, device=q.device)
    index_msa_index(
        iq, ik, cu_q, cu_k, ids,
        {", ".join(f"{k}=INDEX_{k}" for k, _ in index)},
    )  # fmt: skip
    attend_msa_attend(
        q, k, v, ids, cu_q, cu_k, out,
        {", ".join(f"{k}=ATTEND_{k}" for k, _ in attend)},
    )  # fmt: skip
"""


def main(arguments: list[str]) -> None:
    kernels = Path(arguments[0]) if arguments else Path("kernels")
    for family in FAMILIES:
        path = kernels / "msa_prefill" / f"{family.name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(compose(family, kernels), encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main(sys.argv[1:])
