"""The fast way to SASS, with its own ELF and DWARF readers and an nvdisasm started ahead, agrees with the slow one."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kopt.evaluate import cubin
from kopt.evaluate.disassembly import Disassemblers
from kopt.evaluate.workers import Workers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="evaluation is for Linux")

IR = """
module {
  tt.func public @double(%p: !tt.ptr<f32> {tt.divisibility = 16 : i32} loc("kernel.py":3:0)) {
    %r = tt.make_range {end = 128 : i32, start = 0 : i32} : tensor<128xi32> loc("kernel.py":4:0)
    %s = tt.splat %p : !tt.ptr<f32> -> tensor<128x!tt.ptr<f32>> loc("kernel.py":4:0)
    %a = tt.addptr %s, %r : tensor<128x!tt.ptr<f32>>, tensor<128xi32> loc("kernel.py":4:0)
    %x = tt.load %a : tensor<128x!tt.ptr<f32>> loc("kernel.py":5:0)
    %y = arith.addf %x, %x : tensor<128xf32> loc("standard.py":77:0)
    tt.store %a, %y : tensor<128x!tt.ptr<f32>> loc("kernel.py":6:0)
    tt.return loc("kernel.py":6:0)
  } loc("kernel.py":3:0)
} loc("kernel.py":3:0)
"""


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers() as workers:
        yield workers


@pytest.fixture(scope="module")
def tool(workers: Workers, tmp_path_factory: pytest.TempPathFactory) -> str:
    job = "kopt.evaluate.worker.compile:tools"
    folder = tmp_path_factory.mktemp("tools")
    return str(workers.run("compile", job, {}, folder=folder, deadline=60, trusted=True).value["nvdisasm"])


@pytest.fixture(scope="module", params=[90, 100, 120])
def image(
    request: pytest.FixtureRequest, workers: Workers, tmp_path_factory: pytest.TempPathFactory
) -> tuple[int, Path]:
    folder = tmp_path_factory.mktemp("image")
    payload = {"ir": IR, "ext": "ttir", "gluon": False, "options": {"num_warps": 4}, "arch": request.param}
    job = "kopt.evaluate.worker.compile:run"
    reply = workers.run("compile", job, payload, folder=folder, deadline=60, trusted=True)
    assert "error" not in reply.value, reply.value
    return request.param, folder / "kernel.cubin"


@pytest.fixture
def disassemblers(tool: str, tmp_path: Path) -> Iterator[Disassemblers]:
    made = Disassemblers(lambda: tool, tmp_path)
    yield made
    made.close()


def slow(tool: str, image: Path) -> tuple[dict[int, str], dict[int, tuple[str, int]]]:
    """Opcodes and lines as `nvdisasm -g` prints them for the whole image."""
    text = subprocess.run([tool, "-g", "-c", str(image)], capture_output=True, text=True, check=True).stdout
    opcodes, lines, current = {}, {}, None
    for line in text.splitlines():
        if place := re.search(r'//## File "([^"]*)", line (\d+)', line):
            current = (Path(place.group(1)).name, int(place.group(2)))
        elif found := re.match(r"\s*/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+ +)?([A-Z][\w.]*)", line):
            opcodes[int(found.group(1), 16)] = found.group(2)
            if current:
                lines[int(found.group(1), 16)] = current
    return opcodes, lines


def test_opcodes_and_lines_are_those_of_the_whole_image(
    tool: str, image: tuple[int, Path], disassemblers: Disassemblers
) -> None:
    arch, path = image
    code = cubin.read(path.read_bytes())
    disassembler = disassemblers.take(arch)
    instructions = disassembler.read(code.words)
    disassembler.close()
    opcodes, lines = slow(tool, path)
    assert {i.address: i.opcode for i in instructions} == opcodes
    assert code.lines == lines
    assert {("kernel.py", 4), ("kernel.py", 6)} <= set(lines.values())


def test_one_that_was_started_ahead_waits_for_its_code(image: tuple[int, Path], disassemblers: Disassemblers) -> None:
    arch, path = image
    words = cubin.read(path.read_bytes()).words
    disassemblers.prepare(arch)
    time.sleep(1.0)  # its tables are long done
    disassembler = disassemblers.take(arch)
    assert disassembler._process.alive
    assert len(disassembler.read(words)) == len(words) // 16
    disassembler.close()


def test_one_that_did_not_wait_is_run_again(image: tuple[int, Path], disassemblers: Disassemblers) -> None:
    arch, path = image
    words = cubin.read(path.read_bytes()).words
    disassembler = disassemblers.take(arch)
    disassembler._process._release()  # as on a file system without leases
    while disassembler._process.alive:
        time.sleep(0.01)
    assert len(disassembler.read(words)) == len(words) // 16
    disassembler.close()


def test_closing_leaves_no_process_and_no_file(tool: str, tmp_path: Path) -> None:
    made = Disassemblers(lambda: tool, tmp_path)
    made.prepare(90)
    (process,) = made._ready[90]
    made.close()
    assert not process.alive
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"not an ELF at all" * 8, b"\x7fELF" + bytes(200)])
def test_what_is_no_cubin_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a cubin"):
        cubin.read(data)
