"""What a GPU's counters are reduced to. Reading them needs a GPU and ncu; the figures here are as an H200 gave them."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from kopt.errors import HarnessError, MachineError
from kopt.profile.limits import METRICS, reduced
from kopt.profile.ncu import _failed, _run, choose, parse

# kernels/fp8_gemm/tma_persistent.py at 4096 cubed, H200, ncu 2025.3.
PERSISTENT = {
    "us": 97.12, "tensor": 89.3, "dram": 12.15, "l2": 46.25, "l1": 57.3, "issue": 21.43, "read": 39901952.0,
    "written": 16895232.0, "l2_hits": 84.7, "warps": 12.5, "sm_active": 142331.84, "sm_most": 147296.0,
    "registers": 158.0, "waves": 1.0, "long_scoreboard": 1.45, "short_scoreboard": 0.06, "gmma": 0.11, "barrier": 3.95,
    "wait": 1.21, "math_pipe": 0.16, "mio": 0.67, "memory_pipe": 0.0, "sleeping": 0.0, "instructions": 0.1,
}  # fmt: skip
# kernels/fp8_gemm/split_k.py, the sum of its parts, H100.
SUM = {**PERSISTENT, "us": 99.17, "tensor": 0.0, "dram": 89.57, "l2": 84.52, "l1": 19.31, "issue": 9.87,
       "read": 268452096.0, "written": 29283072.0, "l2_hits": 11.85, "warps": 90.53, "long_scoreboard": 133.26,
       "barrier": 0.0}  # fmt: skip
# kernels/msa_decode/split_k.py, scores of one request over 8,192 tokens, H100.
SCORES = {"us": 4.96, "tensor": 2.0, "dram": 12.59, "l2": 19.18, "l1": 10.27, "issue": 7.87, "warps": 6.2,
          "sm_active": 2543.36, "sm_most": 5572.0, "waves": 0.16, "long_scoreboard": 6.52, "wait": 2.21}  # fmt: skip
CSV = """==PROF== Connected to process 7
"ID","Kernel Name","gpu__time_duration.sum","dram__bytes_read.sum","launch__registers_per_thread"
"","","ns","Mbyte","register/thread"
"0","first_kernel","97,120.0","39.9","158"
"1","second_kernel","1,000.0","0.5","32"
"""


def test_the_busiest_unit_binds_and_three_facts_go_with_it() -> None:
    found = reduced("tma_persistent_kernel", "4k-cube", PERSISTENT, 67e6)
    assert found.binds.startswith("the tensor pipes: 89 %")
    assert len(found.facts) == 3
    assert any("is for a barrier" in fact for fact in found.facts)


def test_a_kernel_without_matrix_instructions_is_not_told_that_it_has_none() -> None:
    found = reduced("reduce_kernel", "4k-cube", SUM, None, matrix=False)
    assert found.binds.startswith("device memory: 90 %")
    assert not any("tensor" in fact for fact in found.facts)


def test_where_nothing_is_busy_it_is_latency_and_what_warps_wait_for() -> None:
    found = reduced("score_kernel", "b1-8k", SCORES, None)
    assert found.binds.startswith("latency")
    assert "loads from global memory" in found.binds
    assert any("46 % as long as the longest" in fact for fact in found.facts)


def test_bytes_beyond_the_compulsory_ones_are_a_fact() -> None:
    assert any("4.4 times the bytes" in fact for fact in reduced("k", "s", SUM, 67e6).facts)
    assert not any("times the bytes" in fact for fact in reduced("k", "s", SUM, 290e6).facts)


def test_ncus_table_is_read_in_microseconds_and_bytes() -> None:
    (name, first), (_, second) = parse(CSV)
    assert name == "first_kernel"
    assert first["gpu__time_duration.sum"] == pytest.approx(97.12)
    assert first["dram__bytes_read.sum"] == pytest.approx(39.9e6)
    assert second["launch__registers_per_thread"] == 32


def test_what_is_no_table_has_no_rows() -> None:
    assert parse("==ERROR== nothing was profiled") == []


def test_a_metric_that_a_gpu_lacks_is_replaced_or_left_out() -> None:
    chosen = choose(["sm__inst_executed_pipe_tensor", "dram__bytes_read"])
    assert chosen["tensor"] == "sm__inst_executed_pipe_tensor.avg.pct_of_peak_sustained_active"
    assert chosen["read"] == "dram__bytes_read.sum"
    assert chosen["registers"] == "launch__registers_per_thread"
    assert "gmma" not in chosen
    assert 20 <= len(METRICS) <= 26


def test_counters_that_may_not_be_read_say_who_can_allow_it() -> None:
    done = subprocess.CompletedProcess([], 1, "==ERROR== ERR_NVGPUCTRPERM - The user does not have permission", "")
    error = _failed("", done)
    assert isinstance(error, MachineError)
    assert "NVreg_RestrictProfilingToAdminUsers=0" in str(error)
    other = _failed("", subprocess.CompletedProcess([], 9, "==ERROR== Failed to find metric x", ""))
    assert isinstance(other, HarnessError)
    assert "Failed to find metric x" in str(other)


def test_counters_that_another_tool_holds_are_the_machines_fault() -> None:
    said = (
        "==ERROR== An error was reported by the driver:\n"
        "==ERROR== Profiling failed because a driver resource was unavailable. Ensure that no other tool (like DCGM) "
        "is concurrently collecting profiling data."
    )
    error = _failed(said, subprocess.CompletedProcess([], 1, "", ""))
    assert isinstance(error, MachineError)
    assert "no other tool (like DCGM)" in str(error)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_what_works_under_the_profiler_does_not_outlive_it(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="did not come back within 2 s"):
        _run(["sh", "-c", f"sleep 600 & echo $! > {tmp_path}/pid; wait"], "", None, 2)
    pid = int((tmp_path / "pid").read_text())
    end = time.monotonic() + 10
    while alive(pid):
        assert time.monotonic() < end
        time.sleep(0.05)
