"""What runs under the profiler: the launches of one call, once to warm up and once to be counted.

    python -m kopt.profile.launches JOB

JOB is a JSON file with the task, a shape, a recipe and its images. No walls stand around this process, since the
profiler works inside it; of the candidate it has the device code alone (docs/threat-model.md).
"""

from __future__ import annotations

import base64
import json
import os
import sys
from pathlib import Path

from kopt.evaluate import hooks
from kopt.evaluate.recipe import Recipe
from kopt.records import Shape, Task


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    task, shape = Task.model_validate(job["task"]), Shape.model_validate(job["shape"])
    module = hooks.load(task)
    import torch

    from kopt.judge.replay.cuda import CudaDevice

    dims, seed = dict(shape.dims), int.from_bytes(os.urandom(4))
    inputs = module.make_inputs(dims, task.timed_family(shape), seed, "cuda")
    tensors = [
        inputs[t.name] if t.role == "input"
        else torch.empty(t.sizes(dims), dtype=getattr(torch, t.dtype), device="cuda")
        for t in task.tensors
    ]  # fmt: skip
    images = {sha: base64.b64decode(text) for sha, text in job["images"].items()}
    follower = CudaDevice().follower(Recipe.model_validate(job["recipe"]), images, None)
    follower(*tensors)
    torch.cuda.synchronize()
    torch.cuda.profiler.start()
    follower(*tensors)
    torch.cuda.synchronize()
    torch.cuda.profiler.stop()


if __name__ == "__main__":
    main()
