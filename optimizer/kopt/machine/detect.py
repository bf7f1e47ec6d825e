"""The GPUs of this machine, asked of NVML: no CUDA context is made and no compute library is imported."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import Any, NamedTuple

from kopt.errors import MachineError
from kopt.machine.products import Product, match

VISIBLE = "CUDA_VISIBLE_DEVICES"
_ORDER = "CUDA_DEVICE_ORDER"
_NONE = ("", "NoDevFiles")


@dataclass(frozen=True)
class Gpu:
    """One GPU as NVML describes it."""

    index: int
    """NVML's, in the order of the PCI bus; CUDA_VISIBLE_DEVICES does not change it."""
    uuid: str
    """To find the same GPU through CUDA. It identifies the card, so it is never written into a run."""
    name: str
    arch: int
    """Compute capability as an integer: 90, 100, 120."""
    memory_bytes: int
    power_limit_w: float | None
    max_clock_mhz: float | None
    busy: int
    """Processes that compute on it."""
    product: Product | None
    """None for a GPU whose peak kopt does not know."""


class Detection(NamedTuple):
    gpus: tuple[Gpu, ...]
    driver: str
    problem: str
    """Why there are none, with the mend; "" when there are some."""

    def visible(self) -> tuple[Gpu, ...]:
        """Those that CUDA_VISIBLE_DEVICES leaves, in its order; all of them where it is not set.

        As for CUDA, an empty value or a negative number hides all, and what follows a word that names no GPU, or is not
        of the first one's kind, counts for nothing. MachineError when the first word names none or one is named twice,
        where CUDA would see none; and for a number where GPUs are of several kinds: CUDA numbers them by their speed,
        unless CUDA_DEVICE_ORDER says otherwise.
        """
        said = os.environ.get(VISIBLE)
        if said is None or not self.gpus:
            return self.gpus
        words = [word.strip() for word in said.split(",")]
        if words[0] in _NONE or words[0].startswith("-"):
            return ()
        left: list[Gpu] = []
        for word in words:
            gpu = self._named(word, said) if word.isdigit() == words[0].isdigit() else None
            if gpu is None:
                break
            if gpu in left:
                raise MachineError(f"{VISIBLE}={said!r} names GPU {gpu.index} twice, and CUDA then sees none; mend it")
            left.append(gpu)
        if not left:
            there = ", ".join(str(gpu.index) for gpu in self.gpus)
            raise MachineError(f"{VISIBLE}={said!r} names no GPU of this machine, which has {there}; unset or mend it")
        return tuple(left)

    def visible_as(self, name: str) -> Gpu:
        """The visible one with this index or UUID; MachineError when it is not there or is hidden."""
        for gpu in self.visible():
            if name in (str(gpu.index), gpu.uuid):
                return gpu
        if any(name in (str(gpu.index), gpu.uuid) for gpu in self.gpus):
            said = os.environ[VISIBLE]
            raise MachineError(f"GPU {name} is hidden by {VISIBLE}={said!r}; unset that, or name another")
        raise MachineError(f"no GPU {name!r} here; kopt doctor lists those there are")

    def _named(self, word: str, said: str) -> Gpu | None:
        """By its number, or the beginning of its UUID."""
        if not (word.isascii() and word.isdigit()):
            found = [gpu for gpu in self.gpus if word and gpu.uuid.startswith(word)]
            return found[0] if len(found) == 1 else None
        if len({gpu.name for gpu in self.gpus}) > 1 and os.environ.get(_ORDER) != "PCI_BUS_ID":
            raise MachineError(
                f"{VISIBLE}={said!r} numbers GPUs of several kinds, which CUDA does by their speed: write UUIDs "
                f"(nvidia-smi -L), or set {_ORDER}=PCI_BUS_ID"
            )
        return next((gpu for gpu in self.gpus if gpu.index == int(word)), None)


def detect() -> Detection:
    """Every GPU that NVML lists. It never raises: a machine without one is an ordinary machine."""
    try:
        import pynvml
    except ImportError:
        return Detection((), "", "nvidia-ml-py is not installed: pip install 'kopt-gpu[gpu]'")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return Detection((), "", f"no NVIDIA driver answers: {error}")
    try:
        found = tuple(_gpu(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount()))
        return Detection(found, _text(pynvml.nvmlSystemGetDriverVersion()), "" if found else "the driver lists no GPU")
    except pynvml.NVMLError as error:
        return Detection((), "", f"NVML failed: {error}")
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _gpu(pynvml: Any, index: int) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)

    def ask(function: str, *arguments: Any) -> Any:
        """None for what this card or driver does not report (a MIG slice, a virtual GPU)."""
        try:
            return getattr(pynvml, function)(handle, *arguments)
        except (pynvml.NVMLError, AttributeError):
            return None

    name = _text(pynvml.nvmlDeviceGetName(handle))
    major, minor = ask("nvmlDeviceGetCudaComputeCapability") or (0, 0)
    limit = ask("nvmlDeviceGetEnforcedPowerLimit")
    clock = ask("nvmlDeviceGetMaxClockInfo", pynvml.NVML_CLOCK_SM)
    memory = ask("nvmlDeviceGetMemoryInfo")
    return Gpu(
        index=index,
        uuid=_text(ask("nvmlDeviceGetUUID") or ""),
        name=name,
        arch=10 * major + minor,
        memory_bytes=int(memory.total) if memory else 0,
        power_limit_w=limit / 1000 if limit else None,
        max_clock_mhz=float(clock) if clock else None,
        busy=len(ask("nvmlDeviceGetComputeRunningProcesses") or ()),
        product=match(name),
    )


def _text(value: str | bytes) -> str:
    """Older bindings answer in bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value
