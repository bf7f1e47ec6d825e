"""Others join a live run through its socket; there is still one writer."""

from __future__ import annotations

import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from quick import kernel, session

from kopt.budget import Budget
from kopt.errors import HarnessError, UsageError
from kopt.interact.socket import FILE, Control, Remote, short
from kopt.journal import FILE as JOURNAL
from kopt.journal import read
from kopt.session import Session


@contextmanager
def live(tmp_path: Path, **over: Any) -> Iterator[tuple[Session, Remote]]:
    with session(tmp_path, **over) as made, Control(made):
        remote = Remote(made.run.folder)
        yield made, remote
        remote.close()


def connect(raw: socket.socket, path: Path) -> None:
    with short(path) as address:
        raw.connect(address)


def test_a_caller_submits_and_the_runs_own_journal_says_so(tmp_path: Path) -> None:
    with live(tmp_path) as (made, remote):
        served = remote.call("evaluate", {"source": kernel(0.3), "note": "From outside"})
        assert (served.ok, served.submission) == (True, 1)
        assert "Score 30.0% of the roofline" in served.text
    tool = [e.payload for e in read(made.run.folder / JOURNAL) if e.type == "tool"]
    assert [(t["name"], t["origin"], t["submission"]) for t in tool] == [("evaluate", "mcp", 1)]
    assert tool[0]["arguments"]["source"] == "submission 1"
    assert made.run.entries[1].submission.origin == "mcp"


def test_resources_are_the_brief_the_best_source_and_the_history(tmp_path: Path) -> None:
    with live(tmp_path) as (_, remote):
        assert "Nothing has passed yet" in remote.resource("incumbent")
        remote.call("evaluate", {"source": kernel(0.3), "note": "From outside"})
        assert "# Task: a x plus y" in remote.resource("brief")
        assert "score 0.300000" in remote.resource("incumbent")
        assert "From outside" in remote.resource("history")
        with pytest.raises(UsageError, match="there are brief, incumbent, history"):
            remote.resource("passwd")


def test_a_spent_budget_is_an_answer(tmp_path: Path) -> None:
    with live(tmp_path, budget=Budget(tool_calls=1)) as (_, remote):
        assert remote.call("history", {}).ok
        served = remote.call("history", {})
        assert (served.ok, "the budget of 1 tool calls is spent" in served.text) == (False, True)


def test_callers_take_turns_and_none_is_lost(tmp_path: Path) -> None:
    with session(tmp_path) as made, Control(made):

        def submit(i: int) -> None:
            remote = Remote(made.run.folder)
            for k in range(5):
                served = remote.call("evaluate", {"source": kernel(0.1 + i / 100 + k / 1000), "note": f"{i}.{k}"})
                assert served.ok
            remote.close()

        threads = [threading.Thread(target=submit, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        # The run's own proposer goes on meanwhile.
        for k in range(5):
            made.submit(kernel(0.5 + k / 100), note=f"own {k}", origin="search")
        for thread in threads:
            thread.join()
    assert [entry.n for entry in made.run] == list(range(1, 26))
    assert all(entry.status for entry in made.run)


def test_a_run_waits_for_what_a_visitor_has_begun(tmp_path: Path) -> None:
    begun, go = threading.Event(), threading.Event()

    def on_judge(submission: object) -> None:
        begun.set()
        go.wait(10)

    with session(tmp_path, on_judge=on_judge) as made:
        with Control(made):
            remote = Remote(made.run.folder)
            thread = threading.Thread(target=remote.call, args=("evaluate", {"source": kernel(0.3), "note": "n"}))
            thread.start()
            begun.wait(10)
            threading.Timer(0.1, go.set).start()
        assert made.run.entries[1].status is not None
        thread.join()


@pytest.mark.parametrize(
    "message",
    [b"nonsense\n", b"[1]\n", b'{"op":"call"}\n', b'{"op":"fly"}\n',
     b'{"op":"call","name":"read","arguments":3}\n'],
)  # fmt: skip
def test_a_malformed_message_is_answered_and_the_run_goes_on(tmp_path: Path, message: bytes) -> None:
    with live(tmp_path) as (made, remote):
        raw = socket.socket(socket.AF_UNIX)
        connect(raw, made.run.folder / FILE)
        raw.sendall(message)
        assert b'"error"' in raw.recv(65536)
        raw.close()
        assert remote.call("history", {}).ok


def test_a_message_without_end_is_cut_off(tmp_path: Path) -> None:
    with live(tmp_path) as (made, remote):
        raw = socket.socket(socket.AF_UNIX)
        connect(raw, made.run.folder / FILE)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            raw.sendall(b"x" * (12 << 20))
        raw.close()
        assert remote.call("history", {}).ok


def test_a_run_that_is_not_live_is_refused_with_the_mend(tmp_path: Path) -> None:
    with session(tmp_path) as made:
        pass
    with pytest.raises(UsageError, match=r"is not live.*kopt resume axpy-1 goes on with it"):
        Remote(made.run.folder)


def test_the_socket_of_a_dead_process_is_replaced_and_ends_with_the_run(tmp_path: Path) -> None:
    with session(tmp_path) as made:
        stale = socket.socket(socket.AF_UNIX)
        with short(made.run.folder / FILE) as address:
            stale.bind(address)
        stale.close()
        with pytest.raises(UsageError, match="is not live"):
            Remote(made.run.folder)
        with Control(made):
            Remote(made.run.folder).close()
            assert (made.run.folder / FILE).stat().st_mode & 0o777 == 0o600
        assert not (made.run.folder / FILE).exists()


def test_a_long_path_has_a_socket_too(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    with live(deep) as (_, remote):
        assert remote.call("history", {}).ok


def test_arguments_nested_beyond_reading_are_refused_and_the_run_stays_readable(tmp_path: Path) -> None:
    with live(tmp_path) as (made, remote):
        raw = socket.socket(socket.AF_UNIX)
        connect(raw, made.run.folder / FILE)
        for depth in (100, 190, 300, 100_000):
            raw.sendall(b'{"op":"call","name":"screen","arguments":{"source":' + b"[" * depth + b"]" * depth + b"}}\n")
            assert raw.recv(65536).endswith(b"}\n")
        raw.close()
        assert remote.call("history", {}).ok
    assert [e.payload["name"] for e in read(made.run.folder / JOURNAL) if e.type == "tool"][-1] == "history"


def test_a_call_too_large_to_be_sent_is_refused_and_the_next_one_is_not(tmp_path: Path) -> None:
    with live(tmp_path) as (_, remote):
        with pytest.raises(UsageError, match="at most 4,194,304 are taken"):
            remote.call("screen", {"source": "x" * (5 << 20)})
        assert remote.call("history", {}).ok


def test_callers_at_once_do_not_exceed_the_budget_of_calls(tmp_path: Path) -> None:
    with session(tmp_path, budget=Budget(tool_calls=5)) as made, Control(made):
        remotes = [Remote(made.run.folder) for _ in range(14)]
        together, oks = threading.Barrier(14), []

        def ask(remote: Remote) -> None:
            together.wait()
            oks.append(remote.call("history", {}).ok)

        threads = [threading.Thread(target=ask, args=(remote,)) for remote in remotes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for remote in remotes:
            remote.close()
    assert (sum(oks), made.run.charges.tool_calls) == (5, 5)


def test_a_call_that_broke_is_in_flight_no_longer(tmp_path: Path) -> None:
    with session(tmp_path, budget=Budget(tool_calls=1)) as made:
        with pytest.raises(HarnessError), made.call():
            raise HarnessError("broken")
        with made.call() as charge:
            charge(name="history", ok=True)
        assert made.run.charges.tool_calls == 1


def test_a_crowd_is_turned_away_and_the_next_visitor_is_served(tmp_path: Path) -> None:
    with session(tmp_path) as made, Control(made):
        crowd = [socket.socket(socket.AF_UNIX) for _ in range(200)]
        for raw in crowd:
            connect(raw, made.run.folder / FILE)
        crowd[-1].settimeout(10)
        assert b"32 others are connected" in crowd[-1].recv(65536)
        for raw in crowd:
            raw.close()
        time.sleep(1)
        remote = Remote(made.run.folder)
        assert remote.call("history", {}).ok
        remote.close()


def test_a_run_out_of_descriptors_listens_again_once_it_has_some(tmp_path: Path) -> None:
    with session(tmp_path) as made, Control(made):
        raw = socket.socket(socket.AF_UNIX)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        with short(made.run.folder / FILE) as address:
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
            try:
                raw.connect(address)
                time.sleep(0.3)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        raw.close()
        remote = Remote(made.run.folder)
        assert remote.call("history", {}).ok
        remote.close()
