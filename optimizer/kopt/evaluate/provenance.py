"""Whether the work was done the way the task asks, decided from what ran: recompiled SASS, launches, ATen operations.

A pure function over facts. Source text plays no part: `.to(tl.bfloat16)` in an epilogue is as common as it is innocent,
and a kernel called fp8_gemm can multiply anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from kopt.evaluate.traced import PROBES
from kopt.records import Finding, KernelFacts, LaunchFacts, Shape, Status, Task

LIBRARY = re.compile(
    r"^(?:mm|bmm|s?addmm|addbmm|baddbmm|matmul|mv|addmv|v?dot|inner|(?:bi)?linear|_trilinear|einsum|tensordot|chain_matmul|"
    r"_int_mm|_scaled_mm\w*|_scaled_grouped_mm\w*|_grouped_mm|_weight_\w*mm\w*|_addmm_activation|_foreach_\w*mm|"
    r"linalg_(?!vector_norm)\w*|_?cdist\w*|_euclidean_dist|_mixed_dtypes_linear|_wrapped_\w*linear\w*|"
    r"hspmm|smm|sspaddmm|sparse_sampled_addmm|_cslt_sparse_mm\w*|_sparse_\w*(?:mm\w*|linear|matmul)|"
    r"\w*convolution\w*|\w*conv\d?d\w*|(?:slow_)?conv_\w*|_?cudnn_\w+|mkldnn_\w+|_thnn_fused_\w+|"
    r"\w*scaled_dot_product\w*|\w*attention\w*|_transformer_\w+)_?$"
)
"""ATen operations that a vendor library does the work of, or could: products of any kind, and what is made of them. An
underscore at the end is the same in place."""
BULK = 1 << 20
"""Elements from which an ATen operation beside the kernels is worth a warning."""
FREE = re.compile(
    r"^(?:empty\w*|new_empty\w*|_local_scalar_dense|.*view.*|t|transpose|permute|slice|select|as_strided|expand|"
    r"unsqueeze|squeeze|detach|alias|split\w*|unbind|_reshape_alias|narrow|lift_fresh)$"
)
"""ATen operations that move nothing."""

MOVES = re.compile(
    FREE.pattern + r"|^(?:zeros|ones|full|new_zeros|new_ones|new_full)(?:_like)?$|^(?:zero|fill|copy)_$|"
    r"^(?:clone|_to_copy|cat|stack|constant_pad_nd|gather|scatter_?|arange|eye|repeat|flip|roll|where|masked_fill_?|"
    r"tril_?|triu_?|index|index_(?:select|put_?|copy_?|fill_?)|(?:slice|select)_scatter)$"
)
"""ATen operations that move numbers, or make up constants, and compute nothing."""

_FP8 = re.compile(r"^(?:QGMMA|QMMA|UTCQMMA)(?:\.|$)")
_HALF = re.compile(r"^(?:HGMMA|HMMA|UTCHMMA)(?:\.|$)")
_UNPACKED = re.compile(r"^HMMA\.(?!.*(?:BF16|TF32))")
"""What the compiler itself falls back to below 64 rows on sm_90 and sm_100: FP8 unpacked to fp16."""


def findings(
    task: Task,
    first: Mapping[str, Sequence[LaunchFacts]],
    steady: Mapping[str, Sequence[LaunchFacts]],
    kernels: Mapping[str, KernelFacts],
    aten: Mapping[str, Mapping[str, int]],
) -> Iterator[Finding]:
    """Findings for every timing shape, from the launches of its first call and of a later one.

    `aten` has, by shape and operation, the elements of its largest tensor in either call.
    """
    for shape in task.timing:
        later = [launch for launch in steady.get(shape.name, ()) if launch.programs > 0]
        launches = [*later, *(launch for launch in first.get(shape.name, ()) if launch.programs > 0)]
        ran = {launch.kernel: kernels[launch.kernel] for launch in launches if launch.kernel in kernels}
        operations = aten.get(shape.name, {})
        yield from _library(task, shape, operations)
        if not launches:
            yield _rejected("provenance.launch", "no kernel is launched", shape)
            continue
        if not later:
            yield _rejected("provenance.launch", "only the first call launches a kernel", shape)
        yield from _matrix_instructions(task, shape, list(ran.values()))
        yield from _bulk(shape, operations)


def _library(task: Task, shape: Shape, operations: Mapping[str, int]) -> Iterator[Finding]:
    if not task.provenance.library and (used := sorted(name for name in operations if LIBRARY.match(name))):
        yield _rejected("provenance.library", f"the host calls {', '.join('aten::' + n for n in used)}", shape)


def _matrix_instructions(task: Task, shape: Shape, ran: Sequence[KernelFacts]) -> Iterator[Finding]:
    wanted = task.provenance.mma
    if wanted in ("any", "none"):
        return
    covered = task.needs_mma(shape)
    pattern = _FP8 if wanted == "fp8" else _HALF
    right = {opcode for kernel in ran for opcode in kernel.mma if pattern.match(opcode)}
    for kernel in ran:
        wrong = sorted(opcode for opcode in kernel.mma if not pattern.match(opcode))
        if not wrong:
            continue
        unpacked = wanted == "fp8" and all(_UNPACKED.match(opcode) for opcode in wrong)
        if unpacked and not covered:
            yield Finding(
                rule="provenance.unpacked",
                message=f"{kernel.name} multiplies with {_some(wrong)}: below 64 rows the compiler unpacks FP8 to fp16",
                shape=shape.name,
            )
        elif covered:
            yield _rejected(
                "provenance.precision",
                f"{kernel.name} multiplies with {_some(wrong)} where the task asks for {wanted} matrix instructions",
                shape,
            )
        else:
            yield Finding(
                rule="provenance.precision",
                message=f"{kernel.name} multiplies with {_some(wrong)}, not with {wanted} matrix instructions",
                shape=shape.name,
            )
    if covered and not right:
        names = ", ".join(sorted({kernel.name for kernel in ran})) or "no compiled kernel"
        yield _rejected("provenance.mma", f"no {wanted} matrix instruction in {names}", shape)


def _bulk(shape: Shape, operations: Mapping[str, int]) -> Iterator[Finding]:
    bulk = sorted(n for n, most in operations.items() if most >= BULK and not FREE.match(n) and not LIBRARY.match(n))
    if bulk:
        yield Finding(
            rule="provenance.aten",
            message=f"the host moves whole tensors with {', '.join('aten::' + n for n in bulk)} beside the kernels",
            shape=shape.name,
        )


def _rejected(rule: str, message: str, shape: Shape) -> Finding:
    return Finding(rule=rule, message=message, status=Status.REJECTED, shape=shape.name)


def _some(opcodes: Sequence[str]) -> str:
    return ", ".join(opcodes[:2]) + (", ..." if len(opcodes) > 2 else "")


def probe_findings(probes: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    """Findings over the kinds of work that were done with a fresh input, the same, a rewritten one, other callers."""
    if not probes:
        return
    fresh = _work(probes["fresh"])
    if not any(kind.startswith("kernel ") for kind in fresh):
        message = "with a fresh input it launches no kernel"
        yield Finding(rule="probe.memoised", message=message, status=Status.REJECTED)
        return
    for circumstance, words in (("same", "the same input again"), ("rewritten", "an input rewritten in place")):
        if missing := fresh - _work(probes[circumstance]):
            yield Finding(
                rule="probe.memoised",
                message=f"with {words} it skips {', '.join(sorted(missing))}, which a fresh input needs",
                status=Status.REJECTED,
            )
            return
    callers: list[set[str]] = [set(probes[c]) for c in PROBES[2:]]
    if differing := set[str]().union(*callers) - callers[0].intersection(*callers):
        yield Finding(
            rule="probe.sniffing",
            message=f"what it does depends on its caller's name: {', '.join(sorted(differing))}",
            status=Status.REJECTED,
        )


def _work(kinds: Sequence[str]) -> set[str]:
    """Kernels, and operations that do more than look at a tensor or make room for one."""
    return {kind for kind in kinds if not (kind.startswith("aten ") and FREE.match(kind[5:]))}
