"""What one GPU machine allows the judge to do: sharing, walls, handshake, time slices, clocks.

    python3 bench/judge_feasibility.py [--only SECTION,...] [--out FILE.json]

One process owns the buffers and the clock ("judge"), others are forked from a zygote that has imported torch and triton
but never touched CUDA ("runner"). Every section is independent: one that fails prints why and the rest goes on.
The figures in docs/judge-feasibility.md come from this script. Needs torch, triton and cuda-bindings; run as root to
try the walls that need it.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import mmap
import os
import platform
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

SHAPES = [(4096, 4096, 4096), (8192, 8192, 8192), (4096, 7168, 16384), (16384, 10240, 8192)]
NOBODY = 65534
RESULTS: dict[str, object] = {}


def say(section: str, **row: object) -> None:
    RESULTS.setdefault(section, []).append(row)  # type: ignore[attr-defined]
    print(f"{section:12s} " + "  ".join(f"{k}={v}" for k, v in row.items()), flush=True)


def spread(values: list[float], digits: int = 2) -> dict[str, float]:
    v = sorted(values)
    at = lambda q: round(v[min(len(v) - 1, int(q * len(v)))], digits)  # noqa: E731
    return {"min": at(0), "p10": at(0.1), "med": at(0.5), "p90": at(0.9), "max": round(v[-1], digits), "n": len(v)}


# --------------------------------------------------------------------------------------------------------------- walls

libc = ctypes.CDLL(None, use_errno=True)


def no_new_privs() -> None:
    if libc.prctl(38, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(NO_NEW_PRIVS)")


def drop_uid() -> None:
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    os.environ["HOME"] = os.environ["TMPDIR"] = os.environ["KOPT_TMP"]


def new_netns() -> None:
    if libc.unshare(0x40000000):
        raise OSError(ctypes.get_errno(), "unshare(NEWNET)")


def landlock() -> str:
    """Read and execute everywhere; write only in the private folder, /dev/shm and the NVIDIA device nodes."""
    abi = libc.syscall(444, None, 0, 1)
    if abi < 0:
        raise OSError(ctypes.get_errno(), "landlock_create_ruleset: kernel has no Landlock")
    bits = (1 << 13) - 1
    if abi >= 2:
        bits |= 1 << 13
    if abi >= 3:
        bits |= 1 << 14
    if abi >= 5:
        bits |= 1 << 15
    attr = struct.pack("QQQ", bits, 0b11 if abi >= 4 else 0, 0)
    ruleset = libc.syscall(444, attr, 24 if abi >= 6 else 16 if abi >= 4 else 8, 0)
    if ruleset < 0:
        raise OSError(ctypes.get_errno(), "landlock_create_ruleset")
    read = 0b1101
    file_bits = bits & ((1 << 0) | (1 << 1) | (1 << 2) | (1 << 14) | (1 << 15))
    rules = [("/", read), (os.environ["KOPT_TMP"], bits)]
    rules += [(str(p), file_bits) for p in [*Path("/dev").glob("nvidia*"), Path("/dev/null")] if not p.is_dir()]
    rules += [("/dev/nvidia-caps", bits)] if Path("/dev/nvidia-caps").is_dir() else []
    for path, allowed in rules:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        if libc.syscall(445, ruleset, 1, struct.pack("=Qi", allowed, fd), 0):
            raise OSError(ctypes.get_errno(), f"landlock_add_rule {path}")
        os.close(fd)
    no_new_privs()
    if libc.syscall(446, ruleset, 0):
        raise OSError(ctypes.get_errno(), "landlock_restrict_self")
    os.close(ruleset)
    return f"abi {abi}"


def seccomp() -> None:
    """Refuse ptrace, process_vm_*, network sockets, mount, bpf, perf, keyctl, kexec, userfaultfd, module loading."""
    denied = [101, 310, 311, 165, 166, 321, 298, 250, 246, 323, 175, 313, 434, 438, 425]
    ld, jeq, ret = 0x20, 0x15, 0x06
    errno_eperm, allow = 0x00050000 | 1, 0x7FFF0000
    prog = [(ld, 0, 0, 4), (jeq, 1, 0, 0xC000003E), (ret, 0, 0, errno_eperm), (ld, 0, 0, 0)]
    for nr in denied:
        prog += [(jeq, 0, 1, nr), (ret, 0, 0, errno_eperm)]
    prog += [(jeq, 0, 5, 41), (ld, 0, 0, 16)]  # socket(): families 2, 10, 17
    prog += [(jeq, 2, 0, 2), (jeq, 1, 0, 10), (jeq, 0, 1, 17), (ret, 0, 0, errno_eperm), (ret, 0, 0, allow)]
    code = b"".join(struct.pack("HBBI", *p) for p in prog)
    buf = ctypes.create_string_buffer(code)
    fprog = struct.pack("HxxxxxxQ", len(prog), ctypes.addressof(buf))
    no_new_privs()
    if libc.prctl(22, 2, fprog, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(SECCOMP)")


WALLS = {"setuid": drop_uid, "landlock": landlock, "seccomp": seccomp, "netns": new_netns, "nnp": no_new_privs}


# ------------------------------------------------------------------------------------------------------- device memory


def check(result: tuple[object, ...]) -> object:
    if int(result[0]):  # type: ignore[call-overload]
        raise RuntimeError(f"CUDA driver: {result[0]!s}")
    return result[1] if len(result) == 2 else result[1:]


class Foreign:
    """A device pointer that torch takes through __cuda_array_interface__, as uint8."""

    def __init__(self, pointer: int, size: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (size,), "typestr": "|u1", "data": (pointer, False), "version": 3, "strides": None,
        }  # fmt: skip


def as_bytes(pointer: int, size: int):
    import torch

    return torch.as_tensor(Foreign(pointer, size), device="cuda")


def vmm_prop():
    from cuda.bindings import driver as d

    prop = d.CUmemAllocationProp()
    prop.type = d.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
    prop.requestedHandleTypes = d.CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
    prop.location.type = d.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
    prop.location.id = 0
    return prop


def vmm_map(handle: object, size: int, writable: bool = True) -> int:
    from cuda.bindings import driver as d

    ptr = check(d.cuMemAddressReserve(size, 0, 0, 0))
    check(d.cuMemMap(ptr, size, 0, handle, 0))
    access = d.CUmemAccessDesc()
    access.location.type = d.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
    access.location.id = 0
    flags = d.CUmemAccess_flags
    access.flags = flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE if writable else flags.CU_MEM_ACCESS_FLAGS_PROT_READ
    check(d.cuMemSetAccess(ptr, size, [access], 1))
    return int(ptr)  # type: ignore[call-overload]


def vmm_new(size: int) -> tuple[int, int, int]:
    """(pointer, descriptor, rounded size)."""
    from cuda.bindings import driver as d

    prop = vmm_prop()
    gran = check(d.cuMemGetAllocationGranularity(prop, d.CUmemAllocationGranularity_flags(0)))
    size = -(-size // gran) * gran  # type: ignore[operator]
    handle = check(d.cuMemCreate(size, prop, 0))
    kind = d.CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
    fd = check(d.cuMemExportToShareableHandle(handle, kind, 0))
    return vmm_map(handle, size), int(fd), size  # type: ignore[call-overload]


def vmm_import(fd: int, size: int, writable: bool = True) -> int:
    from cuda.bindings import driver as d

    kind = d.CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
    return vmm_map(check(d.cuMemImportFromShareableHandle(fd, kind)), size, writable)


# -------------------------------------------------------------------------------------------------------- zygote, jobs


def zygote(control: socket.socket) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        msg, fds, _, _ = socket.recv_fds(control, 1 << 16, 8)
        if not msg:
            os._exit(0)
        pid = os.fork()
        if pid == 0:
            control.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            conn = socket.socket(fileno=fds[0])
            os.environ["TMPDIR"] = tempfile.tempdir = os.environ["KOPT_TMP"]
            job = json.loads(msg)
            try:
                applied = {name: str(WALLS[name]() or "ok") for name in job.get("walls", [])}
                out = JOBS[job["name"]](job, conn, fds[1:])
                reply = {"ok": True, "walls": applied, **(out or {})}
            except BaseException as error:
                reply = {"ok": False, "error": f"{type(error).__name__}: {error}", "at": traceback.format_exc()[-700:]}
            conn.send(json.dumps(reply).encode())
            os._exit(0)
        for fd in fds:
            os.close(fd)
        control.send(str(pid).encode())


class Zygote:
    def __init__(self) -> None:
        self.control, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if os.fork() == 0:
            self.control.close()
            zygote(other)
        other.close()

    def start(self, name: str, fds: tuple[int, ...] = (), **job: object) -> tuple[int, socket.socket]:
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        mine.settimeout(90)
        socket.send_fds(self.control, [json.dumps({"name": name, **job}).encode()], [theirs.fileno(), *fds])
        theirs.close()
        return int(self.control.recv(64)), mine

    def run(self, name: str, fds: tuple[int, ...] = (), **job: object) -> dict[str, object]:
        pid, conn = self.start(name, fds, **job)
        try:
            data = conn.recv(1 << 16)
            return json.loads(data) if data else {"ok": False, "error": "runner died"}
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            return {"ok": False, "error": "timeout"}


def job_walls(job: dict[str, object], conn: socket.socket, fds: list[int]) -> dict[str, object]:
    t0 = time.perf_counter()
    import torch

    torch.zeros(1, device="cuda")
    t1 = time.perf_counter()
    a = torch.randn(256, 256, device="cuda").to(torch.float8_e4m3fn)
    one = torch.ones(1, device="cuda")
    out = torch._scaled_mm(a, a.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=True)
    torch.cuda.synchronize()
    t2 = time.perf_counter()
    os.environ["TRITON_CACHE_DIR"] = tempfile.mkdtemp(dir=os.environ["KOPT_TMP"])
    x = torch.arange(1024, device="cuda", dtype=torch.float32)
    y = torch.empty_like(x)
    triton_double()[(1,)](x, y, BLOCK=1024)
    assert torch.equal(y, 2 * x)
    assert bool(out.isfinite().all())
    t3 = time.perf_counter()
    tries = {}
    for what, attempt in {
        "read_mem": lambda: open(f"/proc/{job['judge']}/mem", "rb").close(),  # noqa: PTH123
        "signal": lambda: os.kill(int(job["judge"]), 0),  # type: ignore[call-overload]
        "inet": lambda: socket.socket(socket.AF_INET).close(),
        "connect": lambda: socket.create_connection(("127.0.0.1", 9), timeout=1).close(),
        "write_home": lambda: Path("/var/tmp/kopt-probe").write_text("x"),
        "nvidia_smi": lambda: subprocess.run(["nvidia-smi", "-L"], check=True, capture_output=True, timeout=20),
    }.items():
        try:
            attempt()
            tries[what] = "allowed"
        except Exception as error:
            tries[what] = type(error).__name__ + (f":{error.errno}" if isinstance(error, OSError) else "")
    return {"cuda_init_s": round(t1 - t0, 2), "fp8_mm_s": round(t2 - t1, 2), "triton_s": round(t3 - t2, 2), **tries}


def triton_double():
    import triton
    import triton.language as tl

    globals()["tl"] = tl
    return triton.jit(_double)


def _double(x, y, BLOCK: tl.constexpr):  # noqa: F821
    at = tl.arange(0, BLOCK)  # noqa: F821
    tl.store(y + at, tl.load(x + at) * 2)  # noqa: F821


def job_legacy(job: dict[str, object], conn: socket.socket, fds: list[int]) -> dict[str, object]:
    import torch

    torch.zeros(1, device="cuda")
    t0 = time.perf_counter()
    if job["through"] == "cupy":
        import cupy

        ptr = cupy.cuda.runtime.ipcOpenMemHandle(bytes.fromhex(str(job["handle"])))
    else:
        from cuda.bindings import driver as d

        handle = d.CUipcMemHandle()
        handle.reserved = bytes.fromhex(str(job["handle"]))
        ptr = int(check(d.cuIpcOpenMemHandle(handle, 1)))  # type: ignore[call-overload]
    view = as_bytes(ptr, int(job["size"]))  # type: ignore[call-overload]
    view.fill_(7)
    torch.cuda.synchronize()
    return {"open_ms": round(1e3 * (time.perf_counter() - t0), 2), "f8": str(view.view(torch.float8_e4m3fn).dtype)}


def job_vmm(job: dict[str, object], conn: socket.socket, fds: list[int]) -> dict[str, object]:
    import torch

    torch.zeros(1, device="cuda")
    t0 = time.perf_counter()
    size = int(job["size"])  # type: ignore[call-overload]
    view = as_bytes(vmm_import(fds[0], size, bool(job.get("writable", True))), size)
    seen = int(view[:1024].sum())
    wrote = True
    try:
        view.fill_(9)
        torch.cuda.synchronize()
    except Exception as error:
        wrote = f"{type(error).__name__}: {str(error)[:60]}"  # type: ignore[assignment]
    return {"map_ms": round(1e3 * (time.perf_counter() - t0), 2), "read": seen, "wrote": wrote, "uid": os.getuid()}


GO, DONE, MODE, COUNT, INNER, ACK = 0, 8, 16, 24, 32, 40  # byte offsets of 8-byte words in the shared page
NONE, EMPTY, GEMM, BF16, GRAPH, BUSY, QUIT, SPAM = range(8)


class Page:
    def __init__(self, fd: int) -> None:
        self.words = memoryview(mmap.mmap(fd, 4096)).cast("Q")

    def get(self, at: int) -> int:
        return int(self.words[at // 8])

    def put(self, at: int, value: int) -> None:
        self.words[at // 8] = value

    def wait(self, at: int, value: int, seconds: float = 30) -> None:
        end = time.monotonic() + seconds
        words, i = self.words, at // 8
        while True:
            for _ in range(20000):
                if words[i] == value:
                    return
            if time.monotonic() > end:
                raise TimeoutError(f"word {at} is {words[i]}, not {value}")


def layout(shape: tuple[int, int, int], n: int, outs: int, width: int = 1) -> dict[str, object]:
    m, nn, k = shape
    up = lambda x: -(-x // 256) * 256  # noqa: E731
    a, b, o = up(m * k * width), up(nn * k * width), up(m * nn * 2)
    return {"a": a, "b": b, "o": o, "n": n, "outs": outs, "inputs": n * (a + b), "total": n * (a + b) + outs * o}


def views(blob, shape, lay, dtype):
    import torch

    m, nn, k = shape
    width = torch.empty(0, dtype=dtype).element_size()
    n, off = lay["n"], 0
    sets: list[list[object]] = [[], [], []]
    for which, (count, step, rows, cols, w, dt) in enumerate(
        [
            (n, lay["a"], m, k, width, dtype),
            (n, lay["b"], nn, k, width, dtype),
            (lay["outs"], lay["o"], m, nn, 2, torch.bfloat16),
        ]
    ):
        for _ in range(count):
            sets[which].append(blob[off : off + rows * cols * w].view(dt).view(rows, cols))
            off += step
    return sets


def job_runner(job: dict[str, object], conn: socket.socket, fds: list[int]) -> dict[str, object]:
    import torch

    page = Page(fds[0])
    one = torch.ones(1, device="cuda")
    dtype = getattr(torch, str(job["dtype"]))
    shape, lay = tuple(job["shape"]), job["layout"]  # type: ignore[arg-type]
    blob = as_bytes(vmm_import(fds[1], int(job["size"])), int(job["size"]))  # type: ignore[call-overload]
    a, b, o = views(blob, shape, lay, dtype)
    n = lay["n"]  # type: ignore[index]

    def gemm(i: int) -> None:
        if dtype == torch.bfloat16:
            torch.mm(a[i % n], b[(i // n + i) % n].t(), out=o[i])
        else:
            torch._scaled_mm(a[i % n], b[(i // n + i) % n].t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16,
                             use_fast_accum=True, out=o[i])  # fmt: skip

    gemm(0)
    torch.cuda.synchronize()
    graphs: dict[int, object] = {}
    e0, e1 = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    conn.send(b'{"ready": true}')
    nonce, sync = 0, torch.cuda.synchronize
    while True:
        nonce += 1
        page.wait(ACK, nonce, 300)  # the batch is described; prepare, then say so
        mode, count = page.get(MODE), page.get(COUNT)
        if mode == QUIT:
            return {}
        if mode == GRAPH and count not in graphs:
            graph = torch.cuda.CUDAGraph()
            side = torch.cuda.Stream()
            with torch.cuda.stream(side):
                gemm(0)
            torch.cuda.synchronize()
            with torch.cuda.graph(graph):
                for i in range(count):
                    gemm(i)
            graph.replay()
            sync()
            graphs[count] = graph
        page.put(DONE, (1 << 63) | nonce)
        page.wait(GO, nonce, 300)
        if mode == EMPTY:
            one.fill_(1.0)
        elif mode == GEMM:
            e0.record()
            for i in range(count):
                gemm(i)
            e1.record()
        elif mode == GRAPH:
            e0.record()
            graphs[count].replay()  # type: ignore[attr-defined]
            e1.record()
        elif mode == SPAM:  # keep the device queue full for COUNT milliseconds
            end = time.perf_counter() + count / 1e3
            while time.perf_counter() < end:
                for i in range(4):
                    gemm(i)
                e1.record()
                e1.synchronize()
        if mode != NONE:
            sync()
        if mode in (GEMM, GRAPH):
            page.put(INNER, int(e0.elapsed_time(e1) * 1e6))
        page.put(DONE, nonce)


def job_vendor(job: dict[str, object], conn: socket.socket, fds: list[int]) -> dict[str, object]:
    """cuBLASLt alone in its process: burst and sustained, CUDA graph over rotating inputs, NVML beside it."""
    import torch

    rows = []
    nvml = Nvml()
    for shape in job["shapes"]:  # type: ignore[attr-defined]
        m, n, k = shape
        one = torch.ones(1, device="cuda")
        dtype = getattr(torch, str(job["dtype"]))
        sets = 4
        a = [torch.randn(m, k, device="cuda").to(dtype) for _ in range(sets)]
        b = [torch.randn(n, k, device="cuda").to(dtype) for _ in range(sets)]
        o = [torch.empty(m, n, device="cuda", dtype=torch.bfloat16) for _ in range(sets)]

        def call(i: int) -> None:
            if dtype == torch.bfloat16:  # noqa: B023
                torch.mm(a[i % 4], b[(i // 4 + i) % 4].t(), out=o[i % 4])  # noqa: B023
            else:
                torch._scaled_mm(a[i % 4], b[(i // 4 + i) % 4].t(), scale_a=one, scale_b=one, use_fast_accum=True,  # noqa: B023
                                 out_dtype=torch.bfloat16, out=o[i % 4])  # noqa: B023  # fmt: skip

        for i in range(4):
            call(i)
        torch.cuda.synchronize()
        flops = 2.0 * m * n * k
        e0, e1 = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

        def graph_of(count: int) -> object:
            g = torch.cuda.CUDAGraph()
            with torch.cuda.graph(g):
                for i in range(count):
                    call(i)
            g.replay()
            torch.cuda.synchronize()
            return g

        est = flops / 1.2e15 * (2 if dtype == torch.bfloat16 else 1)
        k_burst, k_sus = max(4, round(0.010 / est)), max(8, round(0.100 / est))
        g_burst, g_sus = graph_of(k_burst), graph_of(k_sus)

        def timed(g: object, count: int) -> float:
            e0.record()  # noqa: B023
            g.replay()  # type: ignore[attr-defined]
            e1.record()  # noqa: B023
            e1.synchronize()  # noqa: B023
            return e0.elapsed_time(e1) * 1e3 / count  # noqa: B023

        burst = []
        for _ in range(10):
            time.sleep(0.15)
            burst.append(timed(g_burst, k_burst))
        eager = []
        for _ in range(5):
            time.sleep(0.15)
            e0.record()
            for i in range(k_burst):
                call(i)
            e1.record()
            e1.synchronize()
            eager.append(e0.elapsed_time(e1) * 1e3 / k_burst)
        sus, samples, end = [], [], time.perf_counter() + float(job["seconds"])  # type: ignore[arg-type]
        with nvml.sampling(samples):
            while time.perf_counter() < end:
                sus.append(timed(g_sus, k_sus))
        last = sus[-max(5, len(sus) // 3) :]
        med = statistics.median
        late = samples[len(samples) // 2 :]
        rows.append({
            "shape": "x".join(map(str, shape)), "burst_us": spread(burst), "eager_us": round(med(eager), 2),
            "burst_tflops": round(flops / med(burst) / 1e6, 1), "sus_us": spread(last),
            "sus_tflops": round(flops / med(last) / 1e6, 1), "first_sus_us": round(sus[0], 2),
            "sm_mhz": med([s[0] for s in late]), "sm_mhz_first": samples[0][0],
            "watt": round(med([s[1] for s in late])),
            "temp": late[-1][2], "reasons": hex(late[-1][3]),
        })  # fmt: skip
        for held in (a, b, o):
            held.clear()
        g_burst = g_sus = None
        torch.cuda.empty_cache()
    return {"rows": rows}


JOBS = {"walls": job_walls, "legacy": job_legacy, "vmm": job_vmm, "runner": job_runner, "vendor": job_vendor}


class Nvml:
    def __init__(self) -> None:
        self.lib = ctypes.CDLL("libnvidia-ml.so.1")
        self.lib.nvmlInit_v2()
        self.dev = ctypes.c_void_p()
        self.lib.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(self.dev))

    def value(self, call: str, *args: int, kind: type = ctypes.c_uint) -> int:
        out = kind()
        code = getattr(self.lib, call)(self.dev, *args, ctypes.byref(out))
        return int(out.value) if code == 0 else -code

    def sample(self) -> tuple[int, float, int, int]:
        return (
            self.value("nvmlDeviceGetClockInfo", 1), self.value("nvmlDeviceGetPowerUsage") / 1e3,
            self.value("nvmlDeviceGetTemperature", 0),
            self.value("nvmlDeviceGetCurrentClocksThrottleReasons", kind=ctypes.c_ulonglong),
        )  # fmt: skip

    def sampling(self, into: list[object]) -> object:
        nvml, stop = self, threading.Event()

        class Sampler:
            def __enter__(self) -> None:
                self.thread = threading.Thread(target=self.loop)
                self.thread.start()

            def loop(self) -> None:
                while not stop.is_set():
                    into.append(nvml.sample())
                    stop.wait(0.02)

            def __exit__(self, *_: object) -> None:
                stop.set()
                self.thread.join()

        return Sampler()


# ------------------------------------------------------------------------------------------------------------ sections


def section_machine(z: Zygote) -> None:
    def run(*command: str) -> str:
        try:
            return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()
        except OSError as error:
            return f"({error})"

    fields = "name,driver_version,memory.total,clocks.max.sm,clocks.max.mem,power.limit,compute_mode"
    fields += ",persistence_mode,mig.mode.current,pci.bus_id,ecc.mode.current,clocks.sm,temperature.gpu"
    say("machine", gpu=run("nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"))
    say("machine", kernel=platform.release(), uid=os.getuid(), cpus=os.cpu_count(), python=platform.python_version())
    for path in (
        "/sys/kernel/security/lsm",
        "/proc/sys/kernel/yama/ptrace_scope",
        "/proc/sys/kernel/unprivileged_userns_clone",
        "/proc/sys/kernel/seccomp/actions_avail",
        "/sys/fs/cgroup/cgroup.controllers",
        "/proc/sys/user/max_net_namespaces",
    ):
        p = Path(path)
        say("machine", file=path, text=p.read_text().strip() if p.exists() else "absent")
    abi = libc.syscall(444, None, 0, 1)
    say("machine", landlock_abi=abi, errno=ctypes.get_errno() if abi < 0 else 0)
    say(
        "machine",
        cpu=next(
            (x.split(":")[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x), "?"
        ),
    )
    from importlib.metadata import PackageNotFoundError, version

    vers = {}
    for name in ("torch", "triton", "cuda-bindings", "cupy-cuda13x", "nvidia-ml-py", "numpy", "nvidia-cublas"):
        try:
            vers[name] = version(name)
        except PackageNotFoundError:
            vers[name] = "absent"
    say("machine", **vers)
    nodes = " ".join(f"{p.name}:{oct(p.stat().st_mode)[-3:]}" for p in Path("/dev").glob("nvidia*"))
    shm = run("df", "-h", "--output=size", "/dev/shm").split()[-1:]
    say("machine", ncu=run("which", "ncu"), dev=nodes, mps=run("pgrep", "-l", "mps") or "none", shm=shm)


def section_walls(z: Zygote) -> None:
    for walls in ([], ["setuid"], ["landlock"], ["seccomp"], ["netns"], ["netns", "setuid", "landlock", "seccomp"]):
        t0 = time.perf_counter()
        reply = z.run("walls", walls=walls, judge=os.getpid())
        say("walls", tried="+".join(walls) or "none", total_s=round(time.perf_counter() - t0, 2), **reply)


def section_sharing(z: Zygote) -> None:
    import torch

    torch.zeros(1, device="cuda")
    size = 4 << 20
    for walls in ([], ["setuid"]):
        for through in ("cupy", "bindings"):
            try:
                if through == "cupy":
                    import cupy

                    ptr = cupy.cuda.runtime.malloc(size)
                    handle = bytes(cupy.cuda.runtime.ipcGetMemHandle(ptr)).hex()
                else:
                    from cuda.bindings import driver as d

                    ptr = int(check(d.cuMemAlloc(size)))  # type: ignore[call-overload]
                    handle = bytes(check(d.cuIpcGetMemHandle(ptr)).reserved).hex()  # type: ignore[attr-defined]
                reply = z.run("legacy", walls=walls, handle=handle, size=size, through=through)
                say("legacy_ipc", tried=walls, through=through, judge_sees=int(as_bytes(ptr, size)[-1]), **reply)
            except Exception as error:
                say("legacy_ipc", tried=walls, through=through, error=f"{type(error).__name__}: {error}")
    for walls, writable in (
        ([], True),
        (["setuid"], True),
        (["netns", "setuid", "landlock", "seccomp"], True),
        (["setuid"], False),
    ):
        ptr, fd, size = vmm_new(64 << 20)
        view = as_bytes(ptr, size)
        view.fill_(3)
        torch.cuda.synchronize()
        reply = z.run("vmm", (fd,), walls=walls, size=size, writable=writable)
        say("vmm_fd", tried=walls, writable=writable, granularity=size, judge_sees=int(view[-1]), **reply)
        os.close(fd)


class Bench:
    """A judge with one runner over one blob of inputs and outputs."""

    def __init__(self, z: Zygote, shape: tuple[int, int, int], n: int, outs: int, dtype: str) -> None:
        import torch

        self.torch, self.shape = torch, shape
        self.dtype = getattr(torch, dtype)
        self.lay = layout(shape, n, outs, self.dtype.itemsize)
        ptr, fd, size = vmm_new(int(self.lay["total"]))  # type: ignore[call-overload]
        self.blob = as_bytes(ptr, size)
        self.inputs = self.blob[: self.lay["inputs"]]
        self.private = torch.empty_like(self.inputs)
        self.a, self.b, self.o = views(self.private, shape, {**self.lay, "outs": 0}, self.dtype)
        for t in (*self.a, *self.b):
            t.copy_(torch.randn(t.shape, device="cuda"))
        self.outs = views(self.blob, shape, self.lay, self.dtype)[2]
        self.index = torch.randint(0, shape[0] * shape[1], (4096,), device="cuda")
        self.gathered = torch.empty(outs, 4096, device="cuda", dtype=torch.bfloat16)
        self.flat = self.blob[self.lay["inputs"] : self.lay["total"]].view(torch.bfloat16).view(outs, -1)
        memfd = os.memfd_create("page")
        os.ftruncate(memfd, 4096)
        self.page, self.nonce = Page(memfd), 0
        self.inputs.copy_(self.private)
        torch.cuda.synchronize()
        os.fchmod(memfd, 0o666)
        self.pid, self.conn = z.start(
            "runner", (memfd, fd), walls=["setuid"], shape=shape, layout=self.lay, size=size, dtype=dtype
        )
        ready = json.loads(self.conn.recv(1 << 16))
        if not ready.get("ready"):
            raise RuntimeError(ready)
        self.e0, self.e1 = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

    def batch(
        self, mode: int, count: int = 0, idle: float = 0.0, gather: int | None = None
    ) -> tuple[float, float, float]:
        """(event us, GO-to-done us by the judge's wall clock, runner's own event us)."""
        page, sync = self.page, self.torch.cuda.synchronize
        self.nonce += 1
        page.put(MODE, mode)
        page.put(COUNT, count)
        page.put(ACK, self.nonce)
        page.wait(DONE, (1 << 63) | self.nonce)
        if idle:
            time.sleep(idle)
        self.e0.record()
        self.inputs.copy_(self.private)
        sync()
        t0 = time.perf_counter_ns()
        page.put(GO, self.nonce)
        page.wait(DONE, self.nonce)
        t1 = time.perf_counter_ns()
        k = self.flat.shape[0] if gather is None else gather
        self.torch.index_select(self.flat[:k], 1, self.index, out=self.gathered[:k])
        self.e1.record()
        self.e1.synchronize()
        return self.e0.elapsed_time(self.e1) * 1e3, (t1 - t0) / 1e3, page.get(INNER) / 1e3

    def close(self) -> None:
        self.nonce += 1
        self.page.put(MODE, QUIT)
        self.page.put(ACK, self.nonce)
        self.conn.recv(1 << 16)


def section_handshake(z: Zygote) -> None:
    import torch

    bench = Bench(z, (256, 256, 256), 4, 8, "float8_e4m3fn")
    for name, mode in (("none", NONE), ("empty kernel", EMPTY)):
        rows = [bench.batch(mode) for _ in range(500)][100:]
        say("handshake", batch=name, event_us=spread([r[0] for r in rows]), go_done_us=spread([r[1] for r in rows]))
    rows = [bench.batch(EMPTY, idle=0.1) for _ in range(20)]
    say(
        "handshake",
        batch="empty, after 100 ms idle",
        event_us=spread([r[0] for r in rows]),
        go_done_us=spread([r[1] for r in rows]),
    )
    # How dear is the judge's own queued work to others, and a neighbour's to the judge?
    x = torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16)
    y = torch.empty_like(x)
    e0, e1 = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

    def own(count: int = 50) -> float:
        e0.record()
        for _ in range(count):
            torch.mm(x, x, out=y)
        e1.record()
        e1.synchronize()
        return e0.elapsed_time(e1) * 1e3 / count

    own()
    say("slicing", neighbour="idle context", judge_mm_us=spread([own() for _ in range(20)]))
    bench.close()
    time.sleep(0.5)
    say("slicing", neighbour="none", judge_mm_us=spread([own() for _ in range(20)]))
    bench = Bench(z, (4096, 4096, 4096), 4, 8, "float8_e4m3fn")
    bench.nonce += 1
    for at, v in ((MODE, SPAM), (COUNT, 1500), (ACK, bench.nonce)):
        bench.page.put(at, v)
    bench.page.wait(DONE, (1 << 63) | bench.nonce)
    bench.page.put(GO, bench.nonce)
    time.sleep(0.2)
    say("slicing", neighbour="busy queue", judge_mm_us=spread([own() for _ in range(10)]))
    tiny = []
    for _ in range(50):
        e0.record()
        y[:1, :1].fill_(0)
        e1.record()
        e1.synchronize()
        tiny.append(e0.elapsed_time(e1) * 1e3)
    say("slicing", neighbour="busy queue", judge_tiny_us=spread(tiny))
    bench.page.wait(DONE, bench.nonce)
    bench.close()


def section_batches(z: Zygote) -> None:
    import torch

    for shape, outs, counts, dtype in (
        ((4096, 4096, 4096), 200, (1, 10, 50, 100, 200), "float8_e4m3fn"),
        ((8192, 8192, 8192), 24, (1, 6, 12, 24), "float8_e4m3fn"),
        ((8192, 8192, 8192), 24, (6, 12, 24), "bfloat16"),
    ):
        bench = Bench(z, shape, 4, outs, dtype)
        tag = f"{dtype} {'x'.join(map(str, shape))}"
        nulls = [bench.batch(EMPTY, idle=0.1)[0] for _ in range(12)]
        say("batches", case=tag, null_us=spread(nulls))
        null = min(nulls)
        total: dict[tuple[int, int], float] = {}
        for mode, name in ((GEMM, "eager"), (GRAPH, "graph")):
            for count in counts:
                bench.batch(mode, count)
                rows = [bench.batch(mode, count, idle=0.1) for _ in range(8)]
                per = [(r[0] - null) / count for r in rows]
                total[mode, count] = statistics.median(r[0] for r in rows)
                own, wall = (spread([r[i] / count for r in rows]) for i in (2, 1))
                say(
                    "batches", case=tag, mode=name, k=count, per_call_us=spread(per), runner_events_us=own, wall_us=wall
                )
            k2, k1 = counts[-1], counts[-2]
            say("batches", case=tag, mode=name, slope_us=round((total[mode, k2] - total[mode, k1]) / (k2 - k1), 2))
        i = counts[-1] - 1
        ref = (bench.a[i % 4].float() @ bench.b[(i // 4 + i) % 4].float().t()).flatten()[bench.index]
        got = bench.gathered[i].float()
        say("batches", case=tag, checked_call=i, rel=float((got - ref).norm() / ref.norm()))
        bench.close()
        del bench, ref
        torch.cuda.empty_cache()


def section_vendor(z: Zygote) -> None:
    for dtype, shapes in (("float8_e4m3fn", SHAPES), ("bfloat16", [(8192, 8192, 8192)])):
        reply = z.run("vendor", shapes=shapes, dtype=dtype, seconds=2.5)
        for row in reply.get("rows", []):  # type: ignore[attr-defined]
            say("vendor", dtype=dtype, **row)
        if not reply["ok"]:
            say("vendor", dtype=dtype, **reply)


def _l2_read(x, out, blocks, iters, BLOCK: tl.constexpr):  # noqa: F821
    pid = tl.program_id(0)  # noqa: F821
    at = tl.arange(0, BLOCK)  # noqa: F821
    acc = tl.zeros((BLOCK,), tl.int32)  # noqa: F821
    for i in range(iters):
        acc ^= tl.load(x + ((pid + i * 131) % blocks) * BLOCK + at, cache_modifier=".cg")  # noqa: F821
    tl.store(out + pid * BLOCK + at, acc)  # noqa: F821


def section_memory(z: Zygote) -> None:
    import torch
    import triton
    import triton.language as tl

    globals()["tl"] = tl
    e0, e1 = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

    def ms(call, reps: int = 10) -> float:
        call()
        times = []
        for _ in range(reps):
            e0.record()
            call()
            e1.record()
            e1.synchronize()
            times.append(e0.elapsed_time(e1))
        return statistics.median(times)

    src = torch.empty(4 << 30, dtype=torch.uint8, device="cuda").fill_(1)
    dst = torch.empty_like(src)
    say("memory", hbm_copy_TBps=round(2 * src.numel() / ms(lambda: dst.copy_(src)) / 1e9, 3),
        hbm_fill_TBps=round(src.numel() / ms(lambda: dst.fill_(2)) / 1e9, 3))  # fmt: skip
    src = dst = None
    kernel = triton.jit(_l2_read)
    for mib in (8, 16, 24, 32, 512):
        for block, per_sm in ((4096, 8), (8192, 4)):
            x = torch.randint(0, 9, (mib << 18,), dtype=torch.int32, device="cuda")
            grid = 132 * per_sm
            out = torch.empty(grid * block, dtype=torch.int32, device="cuda")
            blocks, iters = x.numel() // block, 400
            t = ms(lambda: kernel[(grid,)](x, out, blocks, iters, BLOCK=block, num_warps=8))  # noqa: B023
            say("memory", read_MiB=mib, block=block, TBps=round(grid * iters * block * 4 / t / 1e9, 2))
    pairs = []
    for _ in range(2000):
        e0.record()
        e1.record()
        e1.synchronize()
        pairs.append(e0.elapsed_time(e1) * 1e3)
    say("memory", empty_event_pair_us=spread(pairs))
    one = torch.ones(1, device="cuda")
    t0 = time.perf_counter()
    for _ in range(5000):
        one.fill_(1)
    host = (time.perf_counter() - t0) / 5000 * 1e6
    torch.cuda.synchronize()
    x = torch.arange(1024, device="cuda", dtype=torch.float32)
    double = triton_double()
    double[(1,)](x, x, BLOCK=1024)
    t0 = time.perf_counter()
    for _ in range(2000):
        double[(1,)](x, x, BLOCK=1024)
    tri = (time.perf_counter() - t0) / 2000 * 1e6
    torch.cuda.synchronize()
    rows = []
    for _ in range(500):
        t0 = time.perf_counter()
        one.fill_(1)
        torch.cuda.synchronize()
        rows.append((time.perf_counter() - t0) * 1e6)
    say("memory", torch_launch_host_us=round(host, 2), triton_launch_host_us=round(tri, 2), launch_sync_us=spread(rows))


SECTIONS = {
    "machine": section_machine, "walls": section_walls, "sharing": section_sharing, "handshake": section_handshake,
    "batches": section_batches, "vendor": section_vendor, "memory": section_memory,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", default=",".join(SECTIONS))
    parser.add_argument("--out")
    args = parser.parse_args()
    private = tempfile.mkdtemp(prefix="kopt-")
    Path(private).chmod(0o777)
    os.environ["KOPT_TMP"] = private
    t0 = time.perf_counter()
    import torch  # noqa: F401
    import triton  # noqa: F401

    print(f"import torch, triton {time.perf_counter() - t0:.1f} s", flush=True)
    z = Zygote()
    for name in args.only.split(","):
        t0 = time.perf_counter()
        try:
            SECTIONS[name](z)
        except Exception:
            say(name, failed=traceback.format_exc()[-900:])
        print(f"-- {name}: {time.perf_counter() - t0:.1f} s", flush=True)
        if args.out:
            Path(args.out).write_text(json.dumps(RESULTS, indent=1))


if __name__ == "__main__":
    sys.exit(main())
