"""What a run is for, and whether this machine can measure it."""

from __future__ import annotations

from typing import NamedTuple

from kopt.errors import MachineError
from kopt.machine.detect import detect
from kopt.machine.products import DEFAULT_TARGET, Product, product


class Place(NamedTuple):
    """A target, and the GPU to measure it on; without one, times are modelled."""

    target: Product
    gpu: str | None
    """UUID; CUDA_VISIBLE_DEVICES and NVML count GPUs differently."""


def choose(target: str | None = None, gpu: str | None = None, *, modelled: bool = False) -> Place:
    """Where a run happens.

    Without `target`, it is the GPU at hand, and the default product where there is none. A GPU is used when it is what
    the target says; of several that CUDA_VISIBLE_DEVICES leaves the first on which nothing computes, so that runs can
    go side by side. MachineError when `gpu` (an index as `kopt doctor` has it, or a UUID) is not there or is hidden, or
    when its product is not in the table: an unknown GPU has no peak.
    """
    if modelled:
        return Place(product(target or DEFAULT_TARGET), None)
    wanted = product(target) if target else None
    there = detect()
    found = [there.visible_as(gpu)] if gpu is not None else sorted(there.visible(), key=lambda g: g.busy > 0)
    if wanted is not None:
        usable = [g for g in found if g.product == wanted]
        if gpu is not None and not usable:
            raise MachineError(f"GPU {gpu} is {found[0].name}, not {wanted.name}: name one that is")
        return Place(wanted, usable[0].uuid if usable else None)
    if not found:
        return Place(product(DEFAULT_TARGET), None)
    first = found[0]
    if first.product is None:
        raise MachineError(
            f"{first.name} is not in kopt's table of products, so its peak is unknown; model another GPU "
            f"with --target, or add a row (CONTRIBUTING.md, Add a GPU)"
        )
    return Place(first.product, first.uuid)
