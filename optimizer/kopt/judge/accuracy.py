"""Beyond the bound on each element: is a kernel as exact as the vendor library, and does it say the same twice?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, MutableMapping, Sequence

from kopt.judge.arms import Arm, Batch
from kopt.judge.deck import Call
from kopt.records import Finding, Shape, Status

TIMES = 1.5
"""Of the vendor library's own relative RMS error. Fast accumulation costs both the same; anything less shows."""
_SURE = 4.0
"""Standard deviations by which errors of two draws may differ by chance: of n elements each, about 1 / sqrt(n)."""
_CALLS = 2

Ask = Callable[[Arm, Sequence[Call], Batch | None], Batch]
"""One checked batch, one of its calls whole; or with the inputs of an earlier one, to be compared with that."""


def accuracy(
    shape: Shape, candidate: Arm, vendor: Arm | None, unit: float, ask: Ask, known: MutableMapping[str, float]
) -> Iterator[Finding]:
    """Compare errors, with operands of the same kind, and the same calls with themselves.

    `unit` is the relative rounding error of the output's dtype: what no result can be held to. `known` has the vendor
    library's own error by shape, as far as it has been measured.
    """
    assert candidate.deck is not None
    calls = candidate.deck.deal(_CALLS)
    first = ask(candidate, calls, None)
    second = ask(candidate, calls, first)
    assert first.found is not None
    assert second.found is not None
    if not first.found.same(second.found, len(calls)):
        yield Finding(
            rule="judge.determinism",
            message="the same inputs gave different outputs, all within the bound",
            shape=shape.name,
        )
    if vendor is None or vendor.deck is None:
        return
    key = shape.model_dump_json()
    if key not in known:
        known[key] = _error(ask(vendor, vendor.deck.deal(_CALLS), None))
    count = min(out[0].numel() for out in candidate.deck.outputs.values())
    limit = TIMES * (1 + _SURE / math.sqrt(count)) * max(known[key], unit)
    if (error := _error(first)) > limit:
        yield Finding(
            rule="judge.precision",
            message=f"relative RMS error {error:.2e}, more than {limit / max(known[key], unit):.2g} times "
            "the vendor library's own",
            status=Status.WRONG,
            shape=shape.name,
            got=f"{error:.3e}",
            bound=f"{limit:.3e}",
        )


def _error(batch: Batch) -> float:
    assert batch.found is not None
    assert batch.found.rms is not None
    return batch.found.rms
