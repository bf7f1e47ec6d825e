"""What to optimize: the declarative half of a task. The other half is the hooks in task.py beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import prod
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from kopt.records import conditions
from kopt.records.base import Record

Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Label = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._x-]*$")]

Dtype = Literal[
    "float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "int64", "int32", "int16", "int8",
    "uint8", "bool",
]  # fmt: skip

ITEMSIZE: Mapping[str, int] = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1,
    "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1, "bool": 1,
}  # fmt: skip


class Dim(Record):
    """A symbolic dimension and what the task demands of it."""

    min: int = 1
    max: int | None = None
    multiple_of: int = 1


class TensorSpec(Record):
    """One tensor argument of the entry; all are contiguous in row-major order."""

    name: Identifier
    role: Literal["input", "output"]
    dtype: Dtype
    dims: tuple[Identifier | int, ...]
    """Names of dimensions, or fixed sizes."""

    def sizes(self, dims: Mapping[str, int]) -> tuple[int, ...]:
        return tuple(d if isinstance(d, int) else dims[d] for d in self.dims)

    def nbytes(self, dims: Mapping[str, int]) -> int:
        return prod(self.sizes(dims)) * ITEMSIZE[self.dtype]


class Shape(Record):
    """A named assignment of sizes to the task's dimensions."""

    name: Label
    dims: Mapping[Identifier, int]
    inputs: tuple[str, ...] = ()
    """Input families used with this shape; empty means all of the task's. A shape is timed with the first of them."""

    def __str__(self) -> str:
        return f"{self.name} ({', '.join(f'{k}={v}' for k, v in self.dims.items())})"


class Hidden(Record):
    """Ragged shapes drawn anew for each run, so that no kernel can be written for the checked shapes alone."""

    count: int = Field(default=4, ge=0)
    dims: Mapping[Identifier, tuple[int, int]] = {}
    """Inclusive range of each dimension; values are rounded to the dimension's multiple."""


class Score(Record):
    """How a passed submission is ranked: a geometric mean over all timing shapes."""

    metric: Literal["utilization", "roofline"] = "utilization"
    peak: str
    """Key of the product's peak that utilization refers to, such as "fp8" or "bf16"."""
    launch: Literal["eager", "graph"] = "eager"
    """How calls are made when they are timed: one by one, so that the host function counts; or replayed from a CUDA
    graph that holds a batch of them, as servers do with small work. A call that cannot be captured then fails."""


class Tolerance(Record):
    """Limits of the one error metric, ||got - want|| / ||want|| over an output; see evaluate/compare.py."""

    relative_rms: float = Field(gt=0)
    exact_inputs: tuple[str, ...] = ()
    """Input families whose result must match the reference bit for bit."""


class Provenance(Record):
    """What the compiled kernels must show, decided from SASS."""

    mma: Literal["fp8", "bf16", "any", "none"] = "any"
    """The matrix instructions that must carry the work."""
    mma_from: Mapping[Identifier, int] = {}
    """Shapes with every one of these dimensions at or above the given size fall under the rule."""
    library: bool = False
    """Whether library GEMMs and other heavy ATen operations are allowed in the host function."""


class Cost(Record):
    """The work that a shape asks for: the numerator of utilization and the bytes no kernel can avoid."""

    flops: float = Field(ge=0)
    read: float = Field(ge=0)
    """Compulsory bytes read from device memory."""
    written: float = Field(ge=0)
    """Compulsory bytes written to device memory."""


class Task(Record):
    """One folder under tasks/. `folder` is where it was read from; `sha` covers task.toml, task.py and the skeleton."""

    name: Identifier
    title: str
    entry: Identifier
    dims: Mapping[Identifier, Dim]
    requires: tuple[str, ...] = ()
    """Conditions that tie dimensions together, such as "HQ % HKV == 0"; see conditions.py."""
    tensors: tuple[TensorSpec, ...]
    input_families: tuple[str, ...]
    timing: tuple[Shape, ...] = Field(min_length=1)
    check_cpu: tuple[Shape, ...] = Field(min_length=1)
    check_gpu: tuple[Shape, ...] = ()
    hidden: Hidden = Hidden()
    regimes: tuple[Literal["burst", "sustained"], ...] = ("burst", "sustained")
    score: Score
    tolerance: Tolerance
    provenance: Provenance = Provenance()
    landmarks: tuple[str, ...] = ()
    """Steps a run is expected to climb through, in order, for the brief."""
    folder: str = ""
    sha: str = ""

    @field_validator("tensors")
    @classmethod
    def _tensors(cls, tensors: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        names = [t.name for t in tensors]
        if len(set(names)) != len(names):
            raise ValueError("two tensors share a name")
        if not any(t.role == "output" for t in tensors):
            raise ValueError('at least one tensor needs role = "output"')
        return tensors

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for condition in self.requires:
            if unknown := conditions.names(condition) - set(self.dims):
                raise ValueError(f"requires: {condition!r} names {', '.join(sorted(unknown))}, not in [dims]")
        for tensor in self.tensors:
            for dim in tensor.dims:
                if isinstance(dim, str) and dim not in self.dims:
                    raise ValueError(f"tensors.{tensor.name}.dims names {dim!r}, which is not in [dims]")
        for section in ("timing", "check_cpu", "check_gpu"):
            shapes: tuple[Shape, ...] = getattr(self, section)
            if len({s.name for s in shapes}) != len(shapes):
                raise ValueError(f"two shapes of [[{section}]] share a name")
            for shape in shapes:
                self.validate_shape(shape, section)
        for family in self.tolerance.exact_inputs:
            if family not in self.input_families:
                raise ValueError(f"tolerance.exact_inputs names {family!r}, which is not in input_families")
        return self

    def validate_shape(self, shape: Shape, where: str = "shape") -> None:
        """Raise ValueError, naming the key, when a shape does not fit the task's dimensions."""
        place = f"{where} {shape.name!r}"
        if missing := set(self.dims) - set(shape.dims):
            raise ValueError(f"{place} lacks {', '.join(sorted(missing))}")
        if extra := set(shape.dims) - set(self.dims):
            raise ValueError(f"{place} has unknown dimension {', '.join(sorted(extra))}")
        for name, dim in self.dims.items():
            size = shape.dims[name]
            if size < dim.min or (dim.max is not None and size > dim.max):
                upper = "" if dim.max is None else f" and at most {dim.max}"
                raise ValueError(f"{place}: {name} = {size}, but the task demands at least {dim.min}{upper}")
            if size % dim.multiple_of:
                raise ValueError(f"{place}: {name} = {size} is not a multiple of {dim.multiple_of}")
        for condition in self.requires:
            if not conditions.holds(condition, shape.dims):
                sizes = ", ".join(f"{name} = {shape.dims[name]}" for name in sorted(conditions.names(condition)))
                raise ValueError(f"{place}: {sizes}, but the task demands {condition}")
        for family in shape.inputs:
            if family not in self.input_families:
                raise ValueError(f"{place}: inputs names {family!r}, which is not in input_families")

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return tuple(t for t in self.tensors if t.role == "input")

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return tuple(t for t in self.tensors if t.role == "output")

    def families_for(self, shape: Shape) -> tuple[str, ...]:
        return shape.inputs or self.input_families

    def timed_family(self, shape: Shape) -> str:
        """The kind of inputs that times of this shape, modelled and measured, refer to."""
        return self.families_for(shape)[0]

    def needs_mma(self, shape: Shape) -> bool:
        """Whether the provenance rule about matrix instructions applies to this shape."""
        rule = self.provenance
        if rule.mma in ("any", "none"):
            return False
        return all(shape.dims[name] >= size for name, size in rule.mma_from.items())


def is_identifier(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) is not None
