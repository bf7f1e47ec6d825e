"""How far an honest kernel's attention may be from the float64 reference."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from kopt.msa.reference import Rows

SUM_ERROR = {"cpu": 2.0**-21, "cuda": 2.0**-18}
"""Of a product's sum in units of the sum of |q||k|: fp32 in the interpreter; on tensor cores products are aligned to
the largest and cut off a few bits below it."""


STEP = 2.0**-7 / 12**0.5 * (3 / 8 / math.log(2)) ** 0.5
"""Standard deviation of what rounding to bf16's 8 bits changes, of the number itself: a step of 2**-7 of the power of
two below it, and numbers as frequent in one place of the way to the next as in another."""
LEAST = 2.0**-126
"""What is smaller than the least normal number may have become 0."""


def allowed(rows: Rows, alike: int = 1) -> torch.Tensor:
    """[rows, HQ, D] float64: rounding out to bf16, half a unit of 8 bits; and, as random walks of eight standard
    deviations and more,

    weights rounded to bf16 before they meet the values, and up to 16 partial results rounded to bf16 before they are
    added. The error of a logit moves its weight by as much; it is relative to the sum of |q||k|, which outliers drive
    up, and whatever is left of it after softmax moves out by no more than that times the sum of weight times |value|.
    Weights in fp16, which is as good, vanish where they are faint.

    Of so many `alike` keys and values, copies of each other, the weights are rounded alike too: their steps are not
    independent but one of that length.
    """
    walk = 8 * alike**0.5 * STEP
    logit = SUM_ERROR[rows.out.device.type] * rows.products + 2.0**-16
    near = 1.01 * 2.0**-8 * rows.out.abs() + walk * (rows.spread + rows.parts) + logit[..., None] * rows.size
    return near.double() + rows.faint + LEAST
