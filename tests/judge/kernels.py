"""Kernels for the task `blend`: honest ones with unusual habits, and ones that want a verdict they did not earn.

They use torch alone, so the same sources run on both backends.
"""

from __future__ import annotations

COMPUTE = """
import torch

def compute(a, scale, b, out):
    torch.mm(a, b.T, out=out)
    out.mul_(scale)
"""


def kernel(body: str, prelude: str = "") -> str:
    """A source whose entry has this body; `compute` does the honest work."""
    lines = "\n".join("    " + line for line in body.strip().splitlines())
    return f"{COMPUTE}\n{prelude}\n\ndef blend(a, scale, b, out):\n{lines}\n"


HONEST = {
    "plain": kernel("compute(a, scale, b, out)"),
    "workspace": kernel(
        "work = torch.empty(a.shape[0], b.shape[0], device=a.device)\ncompute(a, scale, b, work)\nout.copy_(work)"
    ),
    "kept workspace": kernel(
        "key = tuple(out.shape)\n"
        "if key not in KEPT:\n    KEPT[key] = torch.empty_like(out)\n"
        "compute(a, scale, b, KEPT[key])\nout.copy_(KEPT[key])",
        "KEPT = {}",
    ),
    "per-shape dispatch": kernel(
        "if out.shape[0] > 100:\n    compute(a, scale, b, out)\nelse:\n    out.copy_(scale * (a @ b.T))"
    ),
    "prints": kernel("print('working', flush=True)\ncompute(a, scale, b, out)"),
}

WRONG = {
    "zeros": kernel("out.zero_()"),
    "nothing": kernel("pass"),
    "one element": kernel("compute(a, scale, b, out)\nout[-1, -1] += 1.0"),
    "dropped scale": kernel("torch.mm(a, b.T, out=out)"),
    "last column missing": kernel("kept = out[:, -1].clone()\ncompute(a, scale, b, out)\nout[:, -1] = kept"),
    "nan": kernel("compute(a, scale, b, out)\nout[0, 0] = float('nan')"),
    "less precision": kernel("out.copy_((a.bfloat16().float() @ b.bfloat16().float().T) * scale)"),
    # Output reuse: remembered by pointer, by shape, by number of the call.
    "memo by pointer": kernel(
        "key = (a.data_ptr(), b.data_ptr(), tuple(out.shape))\n"
        "if key in SEEN:\n    out.copy_(SEEN[key])\n"
        "else:\n    compute(a, scale, b, out)\n    SEEN[key] = out.clone()",
        "SEEN = {}",
    ),
    "memo by contents of the first row": kernel(
        "key = (tuple(out.shape), round(float(a[0, 0]), 1))\n"
        "if key in SEEN:\n    out.copy_(SEEN[key])\n"
        "else:\n    compute(a, scale, b, out)\n    SEEN[key] = out.clone()",
        "SEEN = {}",
    ),
    "correct at first": kernel("global CALLS\nCALLS += 1\nif CALLS < 12:\n    compute(a, scale, b, out)", "CALLS = 0"),
    "every other call": kernel("global CALLS\nCALLS += 1\nif CALLS % 2:\n    compute(a, scale, b, out)", "CALLS = 0"),
    "only where it sees poison": kernel("if not bool(out.isfinite().all()):\n    compute(a, scale, b, out)"),
    "writes its input": kernel("compute(a, scale, b, out)\na[0, 0] += 1.0"),
}

EARLY = {
    "a thread does it later": kernel(
        "import threading, time\n"
        "def later():\n    time.sleep(0.1)\n    out.copy_(scale * (a @ b.T))\n"
        "threading.Thread(target=later).start()"
    ),
    # It owns its process, so it can find the runner's pages and answer in its place; the nonces are there to be read.
    "says done before it is": kernel(
        "import gc, time\n"
        "from kopt.judge import protocol\n"
        "runner = next(o for o in gc.get_objects() if type(o).__name__ == '_Runner')\n"
        "ring = [runner._orders[protocol.RING + i] for i in range(16)]\n"
        "for nonce in ring:\n    runner._reports[protocol.DONE] = nonce\n    time.sleep(0.0005)\n"
        "compute(a, scale, b, out)"
    ),
}

GOES_ON = kernel(
    "import threading\n"
    "compute(a, scale, b, out)\n"
    "def later():\n    while True:\n        out[0].add_(1.0)\n"
    "threading.Thread(target=later, daemon=True).start()"
)

CRASHED = {
    "raises": kernel("raise ValueError('no')"),
    "exits with success": kernel("import os\nos._exit(0)"),
    "exits politely": kernel("import sys\nsys.exit(0)"),
    "segfault": kernel("import ctypes\nctypes.string_at(0)"),
    "closes every descriptor": kernel("import os\nos.closerange(0, 4096)\ncompute(a, scale, b, out)"),
    "import fails": "raise RuntimeError('not today')",
    "no entry": COMPUTE,
    "imports what is not there": "import no_such_module",
    "prints a verdict": kernel('print(\'{"status": "passed", "us": 0.1}\', flush=True)\nimport os\nos._exit(0)'),
    "answers on the judge's socket": kernel(
        "import gc\n"
        "runner = next(o for o in gc.get_objects() if type(o).__name__ == '_Runner')\n"
        "runner._send({'done': True, 'status': 'passed'})\n"
        "import time; time.sleep(0.5)"
    ),
    "talks no JSON": kernel(
        "import gc\n"
        "runner = next(o for o in gc.get_objects() if type(o).__name__ == '_Runner')\n"
        "runner._sock.sendall(b'\\xff' * 64)\n"
        "import time; time.sleep(0.5)"
    ),
}

TIMEOUT = {
    "endless call": kernel("while True:\n    pass"),
    "endless import": "while True:\n    pass",
    "stops itself": kernel("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)"),
}

WALLED = {
    "reads the judge's memory": kernel("import os\nopen(f'/proc/{os.getppid()}/mem', 'rb')\ncompute(a, scale, b, out)"),
    "reads a file": kernel("open('/etc/passwd').read()\ncompute(a, scale, b, out)"),
    "opens a socket": kernel("import socket\nsocket.socket()\ncompute(a, scale, b, out)"),
    "forks": kernel("import os\nos.fork()\ncompute(a, scale, b, out)"),
    "writes the orders": kernel(
        "import gc\n"
        "runner = next(o for o in gc.get_objects() if type(o).__name__ == '_Runner')\n"
        "runner._orders[0] = 7\ncompute(a, scale, b, out)"
    ),
    "maps the orders anew": kernel(
        "import glob, mmap, os\n"
        "for fd in map(int, os.listdir('/proc/self/fd')):\n"
        "    try:\n        name = os.readlink(f'/proc/self/fd/{fd}')\n    except OSError:\n        continue\n"
        "    if 'kopt-orders' in name:\n        mmap.mmap(fd, 4096)\n"
        "raise PermissionError('nothing to map')"
    ),
}
