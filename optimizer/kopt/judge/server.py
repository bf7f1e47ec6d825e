"""The judge's own process: started by a driver, ended with it, and the only one that ever knows the answers.

    python -m kopt.judge.server FD

Requests and replies are JSON frames on the inherited socket. A candidate's failure is a reply; so is a KoptError of
the judge; anything else ends this process, and the driver starts another.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

from kopt.errors import KoptError
from kopt.evaluate.worker import channel
from kopt.judge.backends import judge_side
from kopt.judge.bench import Bench
from kopt.judge.lock import lock
from kopt.judge.plan import Plan, Rival
from kopt.judge.replay import Material
from kopt.judge.runners import Zygote
from kopt.machine.products import product
from kopt.records import Shape, Task


def main() -> None:
    sock = socket.socket(fileno=int(sys.argv[1]))
    _die_with(sock)
    reader = channel.Reader()
    try:
        opened = channel.receive(sock, reader)
        try:
            bench, about, zygote = _open(opened)
        except KoptError as error:
            sock.sendall(channel.encode(_failure(error)))
            return
        sock.sendall(channel.encode(about))
        try:
            while True:
                request = channel.receive(sock, reader)
                try:
                    reply = _answer(bench, request)
                except KoptError as error:
                    reply = _failure(error)
                sock.sendall(channel.encode(reply))
        finally:
            zygote.close()
    except (EOFError, BrokenPipeError):
        pass  # the driver is done


def _open(request: dict[str, Any]) -> tuple[Bench, dict[str, Any], Zygote]:
    name, device = request["backend"], request["device"]
    backend = judge_side(name, device)
    identity = backend.identity()
    held = lock(identity) if identity else None
    # Forked runners must not inherit a CUDA context: the fork server is there before the device is touched.
    kind = "interpret" if name == "cpu" else "compile"
    zygote = Zygote(kind, {"CUDA_VISIBLE_DEVICES": device if name == "cuda" else ""})
    try:
        backend.open()
        toolchain = zygote.ready()
    except BaseException:
        zygote.close()
        raise
    bench = Bench(backend, zygote, Path(request["cache"]) if request.get("cache") else None)
    witness = bench.self_test()
    bench.prepare()
    return (
        bench,
        {"ready": True, "toolchain": toolchain, "witness_us": witness, "lock": held, "pid": os.getpid()},
        zygote,
    )


def _answer(bench: Bench, request: dict[str, Any]) -> dict[str, Any]:
    if request["op"] == "self_test":
        return {"witness_us": bench.self_test()}
    if request["op"] == "probe":
        return bench.probe()
    judgement = bench.judge(
        Task.model_validate(request["task"]),
        request["source"],
        request["parameters"],
        [Shape.model_validate(s) for s in request["shapes"]],
        request["regime"],
        Plan.model_validate(request["plan"]),
        product(request["target"]) if request["target"] else None,
        Rival.model_validate(request["rival"]) if request["rival"] else None,
        Path(request["binaries"]) if request["binaries"] else None,
        Material.model_validate(request["material"]) if request["material"] else None,
        [Shape.model_validate(s) for s in request["hidden"]],
    )
    return {"judgement": judgement.model_dump(mode="json")}


def _failure(error: KoptError) -> dict[str, Any]:
    return {"failure": type(error).__name__, "message": str(error)}


def _die_with(sock: socket.socket) -> None:
    """End this process, and with it the fork server and every runner, as soon as the driver is gone."""

    def watch() -> None:
        poll = select.poll()
        poll.register(sock, select.POLLRDHUP)
        poll.poll()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    main()
