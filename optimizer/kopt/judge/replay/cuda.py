"""Follows a recipe on a GPU, through the CUDA driver: Triton's own launcher would want a C compiler."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kopt.evaluate.recipe import Argument, Recipe, Step
from kopt.judge.replay import Tensor, Unreplayable
from kopt.judge.replay.packing import TENSOR_MAP, Parameter, extents, parameters, tensor_type

_STATIC_SHARED = 48 << 10
_SMALL_MAP = 128 << 10
_FIXED_DRIVER = 13010
"""Up to this version of the driver a descriptor of less than 128 KiB needs a bit cleared, as Triton's launcher does."""


class CudaDevice:
    """The current device of torch."""

    def __init__(self) -> None:
        import torch

        self._begin, self._end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def follower(self, recipe: Recipe, images: Mapping[str, bytes], source: str | None) -> CudaFollower:
        return CudaFollower(recipe, images)

    def timed(self, work: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            self._begin.record()
            work()
            self._end.record()

        return run

    def elapsed_us(self) -> float:
        self._end.synchronize()
        return 1e3 * float(self._begin.elapsed_time(self._end))


class CudaFollower:
    """Launches are prepared once for every set of arguments, so that following costs a few microseconds each."""

    def __init__(self, recipe: Recipe, images: Mapping[str, bytes]) -> None:
        import torch
        from cuda.bindings import driver

        self._torch, self._driver, self._recipe = torch, driver, recipe
        self._version = int(_ok(driver.cuDriverGetVersion()))
        self.omitted: frozenset[int] = frozenset()
        self._modules = {sha: _ok(driver.cuModuleLoadData(image)) for sha, image in images.items()}
        self._functions = [self._function(step) if step.cubin else None for step in recipe.steps]
        self._workspaces = [torch.zeros(max(1, n), dtype=torch.uint8, device="cuda") for n in recipe.workspaces]
        self._scratch = [self._room(step) for step in recipe.steps]
        self._prepared: dict[tuple[int, ...], list[Callable[[Any], None]]] = {}

    def __call__(self, *tensors: Tensor) -> None:
        key = tuple(tensor.data_ptr() for tensor in tensors)
        if (steps := self._prepared.get(key)) is None:
            pairs = zip(self._recipe.steps, self._functions, self._scratch, strict=True)
            steps = self._prepared[key] = [self._step(*pair, tensors) for pair in pairs]
        stream = self._driver.CUstream(self._torch.cuda.current_stream().cuda_stream)
        for number, step in enumerate(steps):
            if number not in self.omitted:
                step(stream)

    def reset(self) -> None:
        for workspace in self._workspaces:
            workspace.zero_()

    def _room(self, step: Step) -> Tensor | None:
        x, y, z = step.grid
        nbytes = x * y * z * step.ctas * step.scratch
        return self._torch.empty(nbytes, dtype=self._torch.uint8, device="cuda") if nbytes else None

    def _function(self, step: Step) -> Any:
        driver = self._driver
        attribute = driver.CUfunction_attribute
        function = _ok(driver.cuModuleGetFunction(self._modules[step.cubin], step.entry.encode()))
        if step.shared > _STATIC_SHARED:
            static = _ok(driver.cuFuncGetAttribute(attribute.CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, function))
            most = self._torch.cuda.get_device_properties(0).shared_memory_per_block_optin
            dynamic = attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            _ok(driver.cuFuncSetAttribute(function, dynamic, most - static))
        if step.ctas == 16:
            wide = attribute.CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED
            _ok(driver.cuFuncSetAttribute(function, wide, 1))
        return function

    def _step(
        self, step: Step, function: Any, scratch: Tensor | None, tensors: Sequence[Tensor]
    ) -> Callable[[Any], None]:
        def address(argument: Argument) -> int:
            if argument.buffer is None:
                return 0
            return int(self._buffer(argument.buffer, tensors).data_ptr()) + argument.offset

        if function is None:
            return self._fill(step, tensors)
        found = parameters(step, address, self._encode, 0 if scratch is None else scratch.data_ptr())
        self._agree(step, function, found)
        storage, pointers = _laid_out(found)
        config = self._config(step)
        driver = self._driver

        def launch(stream: Any, keep: object = storage) -> None:
            config.hStream = stream
            _ok(driver.cuLaunchKernelEx(config, function, ctypes.addressof(pointers), 0))

        return launch

    def _buffer(self, number: int, tensors: Sequence[Tensor]) -> Tensor:
        return tensors[number] if number < len(tensors) else self._workspaces[number - len(tensors)]

    def _fill(self, step: Step, tensors: Sequence[Tensor]) -> Callable[[Any], None]:
        (target,) = step.arguments
        assert target.buffer is not None
        dtype = getattr(self._torch, target.dtype)
        whole = self._buffer(target.buffer, tensors).view(-1).view(self._torch.uint8)
        part = whole[target.offset : target.offset + step.extent * dtype.itemsize].view(dtype)
        value = float(target.value) if isinstance(target.value, str) else target.value
        return lambda stream: part.fill_(value)

    def _agree(self, step: Step, function: Any, found: Sequence[Parameter]) -> None:
        """The recipe's parameters have to be the kernel's: it was told by a process that ran the candidate."""
        info = getattr(self._driver, "cuFuncGetParamInfo", None)
        if info is None:
            return
        for number, parameter in enumerate(found):
            code, _, *size = info(function, number)
            if int(code) or int(size[0]) != parameter.size:
                raise Unreplayable(f"{step.name} takes other parameters than were recorded (number {number + 1})")
        if int(info(function, len(found))[0]) == 0:
            raise Unreplayable(f"{step.name} takes more parameters than were recorded")

    def _config(self, step: Step) -> Any:
        driver = self._driver
        x, y, z = step.grid
        config = driver.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = x * step.ctas, y, z
        config.blockDimX, config.blockDimY, config.blockDimZ = 32 * step.warps, 1, 1
        config.sharedMemBytes = step.shared
        attributes = []

        def add(name: str) -> Any:
            attribute = driver.CUlaunchAttribute()
            attribute.id = getattr(driver.CUlaunchAttributeID, f"CU_LAUNCH_ATTRIBUTE_{name}")
            attributes.append(attribute)
            return attribute.value

        if step.dependent:
            add("PROGRAMMATIC_STREAM_SERIALIZATION").programmaticStreamSerializationAllowed = 1
        if step.cooperative:
            add("COOPERATIVE").cooperative = 1
        if step.ctas > 1:
            cluster = add("CLUSTER_DIMENSION").clusterDim
            cluster.x, cluster.y, cluster.z = step.ctas, 1, 1
            spread = driver.CUclusterSchedulingPolicy.CU_CLUSTER_SCHEDULING_POLICY_SPREAD
            add("CLUSTER_SCHEDULING_POLICY_PREFERENCE").clusterSchedulingPolicyPreference = spread
        config.attrs, config.numAttrs = attributes, len(attributes)
        return config

    def _encode(self, argument: Argument, address: int) -> bytes:
        driver, box = self._driver, argument.box
        assert box is not None
        sizes, strides, block = extents(argument)
        fill = driver.CUtensorMapFloatOOBfill
        tensor_map = _ok(driver.cuTensorMapEncodeTiled(
            driver.CUtensorMapDataType(tensor_type(argument)),
            len(sizes),
            address,
            [driver.cuuint64_t(n) for n in sizes],
            [driver.cuuint64_t(n) for n in strides],
            [driver.cuuint32_t(n) for n in block],
            [driver.cuuint32_t(1)] * len(sizes),
            driver.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE,
            driver.CUtensorMapSwizzle(box.swizzle),
            driver.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
            fill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA if argument.nan
            else fill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        ))  # fmt: skip
        image = bytearray(ctypes.string_at(tensor_map.getPtr(), TENSOR_MAP))
        reach = sum((n - 1) * stride for n, stride in zip(sizes, [box.elem_size, *strides], strict=True))
        if self._version <= _FIXED_DRIVER and reach + 1 < _SMALL_MAP:
            image[10] &= ~(1 << 5)  # bit 21 of the second of its 64-bit words
        return bytes(image)


def _laid_out(found: Sequence[Parameter]) -> tuple[Any, Any]:
    """Memory that holds all parameters, each aligned for a tensor map, and the array that points at them."""
    storage = ctypes.create_string_buffer(TENSOR_MAP * (len(found) + 1))
    start = -(-ctypes.addressof(storage) // TENSOR_MAP) * TENSOR_MAP
    pointers = (ctypes.c_void_p * len(found))()
    for number, parameter in enumerate(found):
        pointers[number] = start + number * TENSOR_MAP
        ctypes.memmove(start + number * TENSOR_MAP, parameter.data, len(parameter.data))
    return storage, pointers


def _ok(result: tuple[Any, ...]) -> Any:
    if int(result[0]) != 0:
        raise Unreplayable(f"the CUDA driver refused: {result[0].name}")
    return result[1] if len(result) > 1 else None
