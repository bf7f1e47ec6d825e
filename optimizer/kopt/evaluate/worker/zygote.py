"""A warm fork server: it imports torch and triton once, then forks one child per job and never runs a job itself.

It alone kills: on a deadline, on too much memory or disk, when the driver asks, and when the driver is gone. Every job
is the subreaper of all it starts, and the server inherits what a job leaves behind: one counts as ended only when
nothing of it is left. Per job it holds one SOCK_SEQPACKET socket to the driver (`supervisor`): "hold" and "go" stop
and start the job's clock while the driver answers a question, "kill" ends the job, and so does the end of the socket
itself.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kopt.evaluate.worker import child, disk, processes
from kopt.evaluate.worker.walls import Walls, installed

_TICK = 0.02
"""Seconds between looks at deadlines and memory while a job runs."""
_SLOW = 0.25
"""Seconds between looks at what takes longer: disk, and families of processes."""
_SPARING = 20
"""Times as long as such a look took is what lies between two, at least."""
_IDLE = 5.0


@dataclass
class _Running:
    """A job and its limits. Times are of the monotonic clock."""

    pid: int
    supervisor: socket.socket
    limits: Mapping[str, Any]
    started: float
    look_next: float
    """When disk and family are looked at again."""
    held: float = 0.0
    hold_since: float | None = None
    reason: str = ""
    """Why it was killed: timeout, memory, disk, stopped; "" when it ended by itself."""
    status: int | None = None

    def seconds(self, now: float) -> float:
        return now - self.started - self.asking(now)

    def asking(self, now: float) -> float:
        return self.held + (now - self.hold_since if self.hold_since is not None else 0.0)


class Zygote:
    """The server's loop."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._jobs: dict[int, _Running] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(control, selectors.EVENT_READ)
        wake, self._wakeup = socket.socketpair()
        wake.setblocking(False)
        self._wakeup.setblocking(False)
        signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._wake = wake
        self._selector.register(wake, selectors.EVENT_READ)
        self._pid = os.getpid()
        self._driver = os.getppid()
        self._installed = installed()
        self._baseline = processes.memory(self._pid)

    def serve(self) -> None:
        """Until the driver is gone."""
        while os.getppid() == self._driver:
            for key, _ in self._selector.select(_TICK if self._jobs else _IDLE):
                if key.fileobj is self._control:
                    if not self._accept():
                        return
                elif key.fileobj is self._wake:
                    with suppress(BlockingIOError):
                        self._wake.recv(4096)
                else:
                    self._listen(key.data)
            self._watch()
            self._reap()

    def close(self) -> None:
        """Kill every job and everything they left."""
        for job in self._jobs.values():
            self._kill(job, "stopped")
        processes.bury(keep=frozenset())

    def _accept(self) -> bool:
        try:
            data, fds, _, _ = socket.recv_fds(self._control, 1 << 16, 3)
        except ConnectionError:
            return False
        if not data:
            return False
        order = json.loads(data)
        supervisor, channel, output = socket.socket(fileno=fds[0]), socket.socket(fileno=fds[1]), fds[2]
        pid = -1
        try:
            function = self._resolve(order["job"])
            pid = os.fork()
        except Exception as error:  # ours or the machine's: no candidate has been near
            self._tell(supervisor, {"refused": f"{type(error).__name__}: {error}"})
        if pid == 0:
            self._become_child(order, function, supervisor, channel, output)
        if pid < 0:
            supervisor.close()
        channel.close()
        os.close(output)
        if pid > 0:
            now = time.monotonic()
            job = _Running(pid, supervisor, order, started=now, look_next=now + _SLOW)
            self._jobs[pid] = job
            self._selector.register(supervisor, selectors.EVENT_READ, job)
            self._tell(supervisor, {"pid": pid})
        return True

    def _resolve(self, job: str) -> child.Job:
        """The function of a job. Its module is ours; importing it here, once, spares every child the time."""
        name, _, function = job.partition(":")
        if name not in sys.modules:
            importlib.import_module(name)
            self._installed = installed()
        found: child.Job = getattr(sys.modules[name], function)
        return found

    def _become_child(
        self, order: Mapping[str, Any], function: child.Job, supervisor: socket.socket, sock: socket.socket, out: int
    ) -> None:
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            os.setsid()
            processes.die_with_parent(self._pid)
            processes.become_subreaper()  # what forks away from it stays in its family, where it is counted
            self._selector.close()
            supervisors = (supervisor, *(job.supervisor for job in self._jobs.values()))
            for other in (self._control, self._wake, self._wakeup, *supervisors):
                other.close()
            null = os.open(os.devnull, os.O_RDONLY)
            for source, target in ((null, 0), (out, 1), (out, 2)):
                os.dup2(source, target)
            for fd in (null, out):
                os.close(fd)
            faulthandler.enable(2)  # a segmentation fault says where it was
            processes.offer_to_oom_killer()
            walls = Walls(read=self._installed, write=(order["folder"],), cpu_seconds=order["cpu_seconds"])
            child.main(sock, function, Path(order["folder"]), None if order["trusted"] else walls)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)

    def _listen(self, job: _Running) -> None:
        try:
            message = job.supervisor.recv(64)
        except ConnectionError:
            message = b""
        now = time.monotonic()
        if message == b"hold" and job.hold_since is None:
            job.hold_since = now
        elif message == b"go" and job.hold_since is not None:
            job.held, job.hold_since = job.asking(now), None
        elif message in (b"kill", b""):
            self._kill(job, "stopped")
            if not message:
                self._selector.unregister(job.supervisor)
                job.supervisor.close()

    def _watch(self) -> None:
        now = time.monotonic()
        for job in self._jobs.values():
            limits = job.limits
            if job.seconds(now) > limits["deadline"]:
                self._kill(job, "timeout")
            elif job.asking(now) > limits["ask_deadline"]:
                self._kill(job, "ask timeout")
            slow, began = now > job.look_next, time.monotonic()
            family = processes.family(job.pid) if slow else (job.pid,)
            if sum(max(0, processes.memory(pid) - self._baseline) for pid in family) > limits["memory"]:
                self._kill(job, "memory")
            elif slow and disk.used(limits["folder"], family) > limits["disk"]:
                self._kill(job, "disk")
            if slow:
                # Whoever fills a folder with files that take long to walk has no processor's time of anybody for that.
                ended = time.monotonic()
                job.look_next = ended + max(_SLOW, _SPARING * (ended - began))

    def _kill(self, job: _Running, reason: str) -> None:
        job.reason = job.reason or reason
        if job.status is None:
            # Itself too: it may not have got as far as a group of its own.
            for kill, target in ((os.kill, job.pid), (os.killpg, job.pid)):
                with suppress(ProcessLookupError):
                    kill(target, signal.SIGKILL)

    def _reap(self) -> None:
        """Collect the dead. A job's end is told only when all that it left is gone too."""
        ended = []
        with suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                if job := self._jobs.get(found[0]):
                    job.status = found[1]
                    ended.append(job)
        if not ended:
            return
        now = time.monotonic()
        for job in ended:
            processes.kill_group(job.pid)
        processes.bury(keep=frozenset(pid for pid, job in self._jobs.items() if job.status is None))
        for job in ended:
            del self._jobs[job.pid]
            with suppress(KeyError, ValueError):
                self._selector.unregister(job.supervisor)
            # Of trusted jobs too: some import a candidate behind walls that they raise themselves.
            if disk.used(job.limits["folder"], ()) > job.limits["disk"]:
                job.reason = job.reason or "disk"
            disk.level(job.limits["folder"])
            self._tell(job.supervisor, {"status": job.status, "reason": job.reason, "seconds": job.seconds(now)})
            job.supervisor.close()

    def _tell(self, supervisor: socket.socket, message: Mapping[str, Any]) -> None:
        with suppress(OSError):
            supervisor.send(json.dumps(message).encode(), socket.MSG_DONTWAIT)


def main() -> None:
    """Serve on the inherited control socket whose descriptor is the only argument."""
    control = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    processes.become_subreaper()
    # The modules of the jobs are ours alone; importing them here spares every child the time.
    from kopt.evaluate.worker import warm

    versions = warm.up()
    zygote = Zygote(control)
    status = 0
    try:
        control.send(json.dumps(versions).encode())
        zygote.serve()
    except Exception:
        traceback.print_exc()
        status = 1
    finally:
        zygote.close()
        sys.stderr.flush()
        os._exit(status)  # to take torch apart in good order takes half a second, and the driver waits


if __name__ == "__main__":
    main()
