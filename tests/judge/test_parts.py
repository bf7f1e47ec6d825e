"""The judge's parts by themselves: pages, layout, deck, snapshot, statistics, sizes."""

from __future__ import annotations

import math
import mmap
import random
import secrets
import socket
import statistics as stats
import time
from collections.abc import Sequence
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from kopt.evaluate import hooks
from kopt.judge import promotes, protocol
from kopt.judge.accuracy import Errors, imprecise
from kopt.judge.agreement import agreement
from kopt.judge.arms import Batch
from kopt.judge.backends import Sample
from kopt.judge.backends.cpu import CpuJudge, CpuRunner
from kopt.judge.crew import Rejected
from kopt.judge.deck import Deck, variants_for
from kopt.judge.extras import Extras
from kopt.judge.layout import call_bytes, layout, stacked, views
from kopt.judge.measure import believed
from kopt.judge.numbers import impossible
from kopt.judge.plan import Plan
from kopt.judge.quads import Quads, uneven
from kopt.judge.runner import Serving
from kopt.judge.series import TIMELESS, Null, Series
from kopt.judge.sizing import few, floor_us, hidden_shapes, sizes
from kopt.judge.snapshot import Snapshot
from kopt.judge.statistics import middle, p_faster, quad, ratio, student_cdf, student_quantile
from kopt.machine.products import product
from kopt.records import Cost, Shape, Status, Task


def deck(task: Task, variants: int = 4, slots: int = 6, shape: Shape | None = None) -> Deck:
    shape = shape or task.timing[0]
    plan = layout(task, shape.dims, variants, slots)
    arena, _ = CpuJudge("").share(plan.total_bytes)
    return Deck(task, hooks.load(task), shape, plan, arena, "cpu")


def honest(cards: Deck, calls: list[tuple[int, ...]]) -> None:
    """Do what a kernel should."""
    for call in calls:
        want, _ = cards.expected(cards.inputs(call), cards.shape.dims)
        cards.outputs["out"][cards.slot(call)].copy_(want["out"])


# ------------------------------------------------------------------------------------------------------------- protocol


def test_the_orders_page_cannot_be_mapped_for_writing() -> None:
    words, fd = protocol.orders()
    with pytest.raises(PermissionError):
        mmap.mmap(fd, 4096)
    reader = protocol.attach_orders(fd)
    words[protocol.GO] = 7
    assert reader[protocol.GO] == 7
    with pytest.raises(TypeError):
        reader[protocol.GO] = 8


@pytest.mark.parametrize("page", [protocol.orders, protocol.reports])
def test_no_page_can_be_shrunk_under_the_other_side(page) -> None:
    import os

    _, fd = page()
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 0)


def test_waiting_for_a_word_ends_at_its_deadline() -> None:
    words, _ = protocol.reports()
    began = time.monotonic()
    with pytest.raises(protocol.Timeout):
        words.wait(protocol.DONE, 1, 0.05)
    assert time.monotonic() - began < 1.0


def test_nonces_differ_and_are_never_nothing() -> None:
    drawn = protocol.nonces(1000)
    assert len(set(drawn)) == 1000
    assert protocol.NOTHING not in drawn


# ----------------------------------------------------------------------------------------------------------- the deck


def test_both_sides_compute_the_same_disjoint_views(blend: Task) -> None:
    plan = layout(blend, blend.timing[0].dims, 3, 5)
    arena = torch.zeros(plan.total_bytes, dtype=torch.uint8)
    covered = 0
    for block in (*plan.inputs, *plan.outputs):
        for i, view in enumerate(views(arena, block)):
            assert view.data_ptr() - arena.data_ptr() == block.offset + i * block.stride
            view.fill_(1.0)
            covered += view.numel()
            assert torch.equal(stacked(arena, block)[i], view)
    assert int((arena.view(torch.float32) == 1.0).sum()) == covered


@pytest.mark.parametrize(("variants", "count"), [(4, 16), (3, 9), (5, 12)])
def test_no_call_of_a_batch_repeats_a_problem_or_a_slot(blend: Task, variants: int, count: int) -> None:
    calls = deck(blend, variants, count).deal(count)
    assert len({(call[0], call[2]) for call in calls}) == count
    assert all(call[0] == call[1] for call in calls)  # a and its scale stay together
    assert sorted(call[3] for call in calls) == list(range(count))


def test_an_operand_returns_only_after_all_others(blend: Task) -> None:
    calls = deck(blend, 5, 25).deal(25)
    for which in (0, 2):
        used = [call[which] for call in calls]
        places = [[k for k, u in enumerate(used) if u == v] for v in range(5)]
        gaps = [j - i for at in places for i, j in pairwise(at)]
        assert min(gaps) >= 4


def test_on_the_diagonal_no_operand_is_used_twice(blend: Task) -> None:
    calls = deck(blend, 5, 8).diagonal(8)
    assert len(calls) == len({c[0] for c in calls}) == len({c[2] for c in calls}) == 5


def test_variants_are_the_fewest_that_give_so_many_problems() -> None:
    assert [variants_for(c, 2) for c in (1, 2, 4, 5, 100, 101)] == [1, 2, 2, 3, 10, 11]
    assert variants_for(7, 1) == 7


def test_nothing_of_the_inputs_is_visible_before_the_reveal(blend: Task) -> None:
    cards = deck(blend)
    cards.draw("normal")
    assert not cards._shared.any()
    cards.reveal()
    assert cards.touched() == ""
    cards._shared[3] ^= 1
    assert cards.touched() == "a"


def test_every_draw_is_new(blend: Task) -> None:
    cards = deck(blend)
    cards.draw("normal")
    before = cards._private.clone()
    cards.draw("normal")
    assert not torch.equal(before, cards._private)


def test_garbage_is_rarely_nan_and_differs_from_what_was_there(blend: Task) -> None:
    cards = deck(blend)
    last, nans = cards.outputs["out"].clone(), 0
    for _ in range(40):
        cards.garble()
        out = cards.outputs["out"].clone()
        nans += int(out.isnan().any())
        assert not torch.equal(out, last)
        last = out
    assert 0 < nans < 30


# ---------------------------------------------------------------------------------------------------------- snapshots


def test_an_honest_batch_is_verified(blend: Task) -> None:
    cards = deck(blend)
    cards.draw("integers")
    calls = cards.deal(6)
    honest(cards, calls)
    assert Snapshot.draw(cards, 6).take().verify(calls, "integers") is None


def test_a_wrong_row_is_found_in_a_few_looks_though_one_call_alone_has_it(blend: Task) -> None:
    cards = deck(blend)
    found = 0
    for _ in range(10):
        cards.draw("normal")
        calls = cards.deal(6)
        honest(cards, calls)
        cards.outputs["out"][cards.slot(calls[4]), 7] += 1.0
        finding = Snapshot.draw(cards, 6).take().verify(calls, "normal")
        found += finding is not None
        if finding is not None:
            assert "call 5 of 6" in finding.message
    # Whichever columns are drawn cross the row: this is found every time.
    assert found == 10


def test_one_wrong_element_is_found_at_the_rate_of_the_probes(blend: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "randbits", random.Random(1).getrandbits)  # the same 400 draws every time
    m, n = 20, 24
    cards = deck(blend, 2, 4, Shape(name="small", dims={"M": m, "N": n, "K": 8}))
    cards.draw("normal")
    calls = cards.deal(4)
    honest(cards, calls)
    cards.outputs["out"][cards.slot(calls[0]), 7, 9] += 1.0
    found = sum(Snapshot.draw(cards, 4).take().verify(calls[:1], "normal") is not None for _ in range(400))
    expected = 1 - (1 - 4 / m) * (1 - 4 / n) * (1 - 1 / 4)
    assert found / 400 == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("stubborn", [False, True])
def test_slices_of_many_calls_at_once_are_those_of_each_call(blend: Task, stubborn: bool) -> None:
    cards = deck(blend)
    if stubborn:  # looks at its inputs, which vmap cannot do
        reference = cards._hooks.reference
        cards._hooks = SimpleNamespace(
            SEPARABLE=("M", "N"),
            make_inputs=cards._hooks.make_inputs,
            reference=lambda inputs, dims: reference(inputs, dims) if inputs["a"].abs().max().item() else {},
        )
    cards.draw("normal")
    calls = cards.deal(6)
    for dim, picked in Snapshot.draw(cards, 6).probes.items():
        together = cards.expected_slices_of(calls, dim, picked)
        for number, call in enumerate(calls):
            alone = cards.expected_slices(cards.inputs(call), dim, picked)
            for mine, theirs in zip(together, alone, strict=True):
                torch.testing.assert_close(mine["out"][number], theirs["out"])
    assert cards._vmaps is not stubborn


def test_a_null_batch_leaves_a_deck_fresh(blend: Task) -> None:
    cards = deck(blend)
    cards.reveal()
    assert cards.fresh
    cards.draw("normal")
    cards.reveal()
    assert not cards.fresh


def test_the_least_look_is_along_a_dimension_drawn_anew(blend: Task) -> None:
    cards = deck(blend)
    cards.draw("normal")
    calls = cards.deal(6)
    honest(cards, calls)
    secret = Snapshot.draw(cards, 6)
    rest = [i for i in range(cards.shape.dims["M"]) if i not in secret.probes["M"].tolist()]
    for call in calls:
        cards.outputs["out"][cards.slot(call)][rest] += 1.0  # right in the rows that are looked at, wrong in columns
    secret.take()
    found = [secret.verify(calls, "normal", "slice") is not None for _ in range(60)]
    assert 5 < sum(found) < 55
    assert secret.verify(calls, "normal", "slices") is not None


def test_the_error_of_slices_is_that_of_all_calls(blend: Task) -> None:
    cards = deck(blend)
    cards.draw("normal")
    calls = cards.deal(6)
    honest(cards, calls)
    exact = Snapshot.draw(cards, 6).take()
    assert exact.verify(calls, "normal", "slices") is None
    cards.outputs["out"][cards.slot(calls[5])].mul_(1 + 1e-5)  # one of six
    found = Snapshot.draw(cards, 6).take()
    assert found.verify(calls, "normal", "slices") is None
    for dim in range(2):
        (right, count), (wrong, _) = exact.slice_rms["out"][dim], found.slice_rms["out"][dim]
        assert count == 6 * 4
        assert right < 1e-7
        assert wrong == pytest.approx(1e-5 / math.sqrt(6), rel=0.5)


def test_what_is_written_after_the_gather_shows(blend: Task) -> None:
    cards = deck(blend)
    cards.draw("normal")
    calls = cards.deal(6)
    honest(cards, calls)
    snapshot = Snapshot.draw(cards, 6).take()
    assert snapshot.same(snapshot.again())
    cards.outputs["out"].add_(1.0)
    assert not snapshot.same(snapshot.again())


def test_slots_that_a_batch_does_not_use_do_not_make_it_differ(blend: Task) -> None:
    cards = deck(blend)
    cards.draw("normal")
    calls = cards.deal(2)
    honest(cards, calls)
    first = Snapshot.draw(cards, 2).take()
    cards.outputs["out"][2:].add_(1.0)
    assert first.same(first.again(), 2)
    assert not first.same(first.again())
    cards.outputs["out"][1].add_(1.0)
    assert not first.same(first.again(), 2)


# --------------------------------------------------------------------------------------------------------- statistics


def test_linear_drift_cancels_in_a_quad() -> None:
    # A takes 1.1 times what B does while everything slows down by a fixed factor from batch to batch.
    b1, a1, a2, b2 = 100.0, 110.0 * 1.01, 110.0 * 1.01**2, 100.0 * 1.01**3
    assert quad((a1, a2), (b1, b2)) == pytest.approx(math.log(1.1), abs=1e-12)


def test_student_agrees_with_tables() -> None:
    for p, df, t in ((0.975, 1, 12.706), (0.975, 3, 3.182), (0.95, 11, 1.796), (0.975, 30, 2.042)):
        assert student_quantile(p, df) == pytest.approx(t, abs=2e-3)
        assert student_cdf(-t, df) == pytest.approx(1 - p, abs=1e-4)


def test_intervals_cover_as_often_as_they_say() -> None:
    rng = random.Random(1)
    covered = {"middle": 0, "ratio": 0}
    for _ in range(400):
        logs = [rng.gauss(0.02, 0.01) for _ in range(12)]
        one, two = middle([math.exp(x) for x in logs]), ratio(logs)
        for name, q in (("middle", one), ("ratio", two)):
            assert q.low is not None
            assert q.high is not None
            covered[name] += q.low <= math.exp(0.02) <= q.high
    assert all(c >= 370 for c in covered.values())


def test_noise_alone_is_rarely_promoted_and_a_real_gain_usually_is() -> None:
    rng = random.Random(2)

    def trial(gain: float, submissions: int) -> bool:
        return promotes([[rng.gauss(-gain, 0.004) for _ in range(12)] for _ in range(4)], submissions)

    assert sum(trial(0.0, 150) for _ in range(500)) == 0
    assert sum(trial(0.02, 150) for _ in range(200)) > 190
    assert sum(trial(0.003, 1) for _ in range(200)) < 20  # real, but below what is worth a new incumbent


def test_promotion_gets_harder_with_every_submission() -> None:
    logs = [[-0.02, -0.01, 0.002, -0.02, -0.015, -0.03]]
    assert promotes(logs, 1)
    assert not promotes(logs, 100)
    assert p_faster(logs[0]) < 0.05


def test_a_single_quad_promotes_nothing() -> None:
    assert not promotes([[-1.0]], 1)
    assert not promotes([], 1)


ALIKE = {"kernel": [100.0, 101.0], "baseline": [99.0, 98.0]}


def test_a_reason_to_throttle_makes_a_quad_uneven_where_one_arm_alone_always_met_it() -> None:
    calm, capped, slow = Sample(clock_mhz=1980.0), Sample(1980.0, throttle=("power cap",)), Sample(clock_mhz=1950.0)
    assert not uneven({"kernel": [calm, capped], "baseline": [capped, calm]}, ALIKE)
    assert not uneven({"kernel": [calm, capped], "baseline": [calm, calm]}, ALIKE)
    assert uneven({"kernel": [capped, capped], "baseline": [calm, calm]}, ALIKE)
    assert uneven({"kernel": [calm, calm], "baseline": [capped, capped]}, ALIKE)
    assert not uneven({"kernel": [capped, capped], "baseline": [capped, calm]}, ALIKE)
    assert uneven({"kernel": [calm, slow], "baseline": [calm, slow]}, ALIKE)
    assert not uneven({"kernel": [Sample(), Sample()], "baseline": [Sample(), Sample()]}, ALIKE)


@pytest.mark.parametrize("arm", ["kernel", "baseline"])
def test_a_host_that_stalls_in_one_batch_makes_a_quad_uneven(arm: str) -> None:
    assert "batches" in uneven({}, {**ALIKE, arm: [100.0, 105.0]})


def batch(us: float, reveal: float) -> Batch:
    return Batch(us, reveal, 2, Sample())


def test_one_slow_reveal_of_a_null_batch_forgives_none_of_a_kernels() -> None:
    series = Series(Shape(name="one", dims={}), None)  # type: ignore[arg-type]
    series.nulls = [Null(100.0 + reveal, reveal) for reveal in (100.0, 100.0, 100.0, 4000.0)]
    assert series.net(batch(10_000.0, 4000.0)) == pytest.approx(9900.0 - 125.0)


def test_a_slow_reveal_is_forgiven_as_far_as_null_batches_have_it_and_no_further() -> None:
    series = Series(Shape(name="one", dims={}), None)  # type: ignore[arg-type]
    series.nulls = [Null(100.0 + reveal, reveal) for reveal in (50.0, 52.0, 60.0)]
    assert series.net(batch(1150.0, 50.0)) == series.net(batch(1160.0, 60.0)) == 1000.0
    assert series.net(batch(1190.0, 90.0)) == pytest.approx(1090.0 - (1.05 * 52.0 + 20.0))
    assert series.per_call(batch(1150.0, 50.0)) == 500.0
    assert series.null_spread == 0.0


def test_a_batch_far_from_what_was_expected_is_astray() -> None:
    series = Series(Shape(name="one", dims={}), None)  # type: ignore[arg-type]
    series.expected = 100.0
    assert not series.astray
    for us, astray in ((100.0, False), (120.0, False), (85.0, False), (900.0, True), (60.0, True)):
        series.host = [us, 100.0]
        assert series.astray is astray


def test_null_batches_that_something_delays_make_no_kernel_faster() -> None:
    series = Series(Shape(name="one", dims={}), None)  # type: ignore[arg-type]
    series.nulls = [Null(rest + 50.0, 50.0) for rest in (100.0, 900.0, 100.0, 400.0, 100.0)]
    assert series.net(batch(1150.0, 50.0)) == 1000.0


@pytest.mark.parametrize(("work", "besides"), [(93.0, 549.0), (930.0, 652.0), (9300.0, 680.0)])
def test_a_batch_with_little_work_is_never_too_fast(work: float, besides: float) -> None:
    """What a batch costs besides its work, as an H200 had it (docs/judge-feasibility.md), with nulls of 500 and 680."""
    series = Series(Shape(name="one", dims={}), None)  # type: ignore[arg-type]
    series.bare, series.nulls = [Null(500.0, 0.0)] * 2, [Null(680.0, 0.0)] * 2
    net = series.net(batch(work + besides, 0.0))
    assert work <= net < work + 75.0


def test_work_that_grows_takes_longer() -> None:
    series = Series(Shape(name="one", dims={}), None)  # type: ignore[arg-type]
    series.bare, series.nulls = [Null(500.0, 0.0)], [Null(680.0, 0.0)]
    nets = [series.net(batch(us, 0.0)) for us in range(510, 4000, 10)]
    assert all(0 < one < other < one + 11 for one, other in pairwise(nets))


def test_how_many_null_batches_there_are_moves_no_time() -> None:
    few, many = (Series(Shape(name="one", dims={}), None) for _ in range(2))  # type: ignore[arg-type]
    few.nulls = [Null(rest, 0.0) for rest in (90.0, 100.0, 110.0, 120.0, 130.0)]
    many.nulls = few.nulls * 5
    assert few.net(batch(1100.0, 0.0)) == pytest.approx(many.net(batch(1100.0, 0.0)), abs=1.0)


@pytest.mark.parametrize("slow", ["kernel", "baseline"])
def test_a_batch_that_takes_no_time_is_void_and_too_many_end_the_measurement(blend: Task, slow: str) -> None:
    series = Series(blend.timing[0], None)  # type: ignore[arg-type]
    series.nulls = [Null(100.0, 0.0)]
    took = {"kernel": 100.0, "baseline": 100.0, slow: 1100.0}  # the other one's: nothing
    arms = {label: SimpleNamespace(label=label, deck=SimpleNamespace(deal=lambda n: [(0,)] * n)) for label in took}
    asked = SimpleNamespace(null=lambda: Null(100.0, 0.0), ask=lambda arm, *_, **__: batch(took[arm.label], 0.0))
    quads = Quads(CpuJudge(""), arms, asked, "burst", 1)  # type: ignore[arg-type]
    for count in range(1, TIMELESS):
        quads.add(series, arms["baseline"], 2)  # type: ignore[arg-type]
        assert (series.void, series.timeless, series.host, series.logs) == (count, count, [], [])
    took.update(kernel=1100.0, baseline=1100.0)
    quads.add(series, arms["baseline"], 2)  # type: ignore[arg-type]
    assert series.host == [500.0, 500.0]
    took.update({"kernel": 100.0, "baseline": 100.0, slow: 1100.0})
    with pytest.raises(Rejected) as failure:
        quads.add(series, arms["baseline"], 2)  # type: ignore[arg-type]
    assert failure.value.finding.rule == "judge.clock"
    assert failure.value.label != slow


def test_a_kernel_that_is_never_even_is_measured_in_the_end() -> None:
    quads = Quads(CpuJudge(""), None, None, "burst", 3)  # type: ignore[arg-type]
    series = Series(Shape(name="one", dims={}), None)  # type: ignore[arg-type]
    why = uneven({}, {"kernel": [100.0, 150.0]})
    void = [quads._again(series, why) for _ in range(6)]
    assert void == [True, True, True, False, False, False]
    assert series.void == 3
    assert series.warnings == [why]


def test_one_batch_of_each_process_is_looked_at_whole_nobody_knows_which() -> None:
    quads = Quads(CpuJudge(""), None, None, "burst", 3)  # type: ignore[arg-type]
    kernel, other = SimpleNamespace(label="kernel"), SimpleNamespace(label="incumbent")
    first, most = [], 0
    for _ in range(300):
        quads.begin(6)
        quads._look(other)  # type: ignore[arg-type]
        looks = [quads._look(kernel) for _ in range(6)]  # type: ignore[arg-type]
        first.append(looks.index("whole"))  # there is one
        most = max(most, looks.count("whole"))
    assert set(first) == set(range(6))
    assert most > 1


@pytest.mark.parametrize("mode", ["graph", "eager"])
def test_calls_of_a_graph_are_described_once_and_made_as_often_as_asked(mode: str) -> None:
    (orders, read), (reports, write) = protocol.orders(), protocol.reports()
    ours, theirs = socket.socketpair()
    serving = Serving(theirs, {}, [read, write])
    made: list[int] = []
    serving._tensors, serving._entry, serving._parameters = [("n", [10, 20])], made.append, {}
    serving._backend = CpuRunner()
    nonces = protocol.nonces(2)
    orders.fill(protocol.RING, nonces)
    orders[protocol.ALERT] = orders[protocol.GO] = 1
    serving._run({"number": 1, "mode": mode, "calls": [[0], [1]], "repeat": 3})
    assert made == [10] + [10, 20] * (3 if mode == "graph" else 1)  # the first is the alert's
    assert reports[protocol.DONE] == nonces[-1]
    ours.close()


# ---------------------------------------------------------------------------------------------------------- agreement


def priced(first: float, again: float, batch: float = 0.0):
    """A device on which the first use of b costs `first` us and a later one `again`, and a batch `batch` besides."""

    def timed(calls: Sequence[tuple[int, ...]]) -> float:
        seen: set[int] = set()
        total = batch
        for call in calls:
            total += again if call[2] in seen else first
            seen.add(call[2])
        return total / len(calls)

    return timed


def test_a_kernel_that_remembers_what_it_made_of_an_operand_is_found(blend: Task) -> None:
    cards = deck(blend, 12, 100)
    found = list(agreement(blend.timing[0], cards, 100, priced(130.0, 100.0)))
    assert [f.rule for f in found if f.status] == ["judge.amortised"]


def test_operands_that_would_return_from_a_cache_are_not_asked_for(blend: Task) -> None:
    cards, asked = deck(blend, 12, 100), []

    def timed(calls: Sequence[tuple[int, ...]]) -> float:
        asked.append(len({call[2] for call in calls}))
        return 100.0

    list(agreement(blend.timing[0], cards, 100, timed, 7))
    assert min(asked) == 7
    asked.clear()
    list(agreement(blend.timing[0], cards, 100, timed, 12))
    assert len(asked) == 6  # whole and half batches; a call this short is not asked for alone


def test_a_batch_that_something_else_delays_is_no_amortisation(blend: Task) -> None:
    cards, delays = deck(blend, 12, 100), iter([9000.0, 0.0, 9000.0, 0.0, 0.0, 0.0])
    found = agreement(blend.timing[0], cards, 4, lambda calls: 100.0 + next(delays))
    assert not [f for f in found if f.status]


def test_a_host_that_is_slow_at_first_is_slow_for_both(blend: Task) -> None:
    cards, delays = deck(blend, 12, 100), iter([40.0] * 3 + [0.0] * 3)  # six batches are enough to see it
    found = agreement(blend.timing[0], cards, 4, lambda calls: 92.0 + next(delays))
    assert not [f for f in found if f.status]


def test_a_kernel_that_remembers_but_once_is_found_all_the_same(blend: Task) -> None:
    cards, batches = deck(blend, 12, 100), iter(range(100))
    remembers = priced(130.0, 100.0)
    # Of nine batches of new operands, one is as quick as if it had seen them.
    found = agreement(blend.timing[0], cards, 4, lambda calls: 100.0 if next(batches) == 2 else remembers(calls))
    assert not [f for f in found if f.status]  # three are too few to tell
    found = agreement(blend.timing[0], cards, 100, lambda calls: 100.0 if next(batches) == 14 else remembers(calls))
    assert [f.rule for f in found if f.status] == ["judge.amortised"]


def test_a_host_that_is_slow_for_a_while_is_no_amortisation(blend: Task) -> None:
    cards = deck(blend, 12, 100)
    # Slow in the first three batches of new operands, as seen with calls shorter than their host code.
    delays = iter([40.0, 0.0] * 3 + [0.0] * 100)
    found = agreement(blend.timing[0], cards, 100, lambda calls: 92.0 + next(delays))
    assert not [f for f in found if f.status]


@pytest.mark.parametrize("batch", [0.0, 250.0])
def test_what_a_batch_costs_besides_its_calls_is_no_amortisation(blend: Task, batch: float) -> None:
    cards = deck(blend, 12, 100)
    assert list(agreement(blend.timing[0], cards, 100, priced(100.0, 100.0, batch))) == []


def test_times_that_depend_on_the_length_of_the_batch_are_a_warning(blend: Task) -> None:
    cards = deck(blend, 12, 100)
    found = list(agreement(blend.timing[0], cards, 100, priced(100.0, 100.0, 2000.0)))
    assert [(f.rule, f.status) for f in found] == [("judge.agreement", None), ("judge.alone", None)]


@pytest.mark.parametrize(("first", "warned"), [(450.0, False), (900.0, True)])
def test_a_call_alone_that_costs_far_more_than_one_of_many_is_a_warning(
    blend: Task, first: float, warned: bool
) -> None:
    cards = deck(blend, 12, 400)
    # Calls that are saved up: every one but the first is cheap.
    found = agreement(blend.timing[0], cards, 400, lambda calls: (first + 110.0 * (len(calls) - 1)) / len(calls))
    assert [f.rule for f in found] == (["judge.alone"] if warned else [])


# -------------------------------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize(("us", "longer", "call"), [
    (0.001, 10.0, 10.0),  # four calls of 10 us took no longer than none: of nothing, a batch would have thousands
    (20.0, 10.0, 10.0),
    (300.0, 310.0, 300.0),  # a stall in the longer one
    (900.0, 310.0, 310.0),
])  # fmt: skip
def test_what_a_call_takes_is_not_read_off_a_batch_that_drowns(us: float, longer: float, call: float) -> None:
    assert believed(us, 4, longer) == call


@pytest.mark.parametrize(("sizes", "error", "right"), [
    ((7, 5), 5.8e-8, True),  # of 35 elements an error of 1.6 times that of 35 others is chance
    ((7, 5), 2e-7, False),
    ((512, 512), 5.8e-8, False),
    ((512, 512), 5.2e-8, True),
])  # fmt: skip
def test_errors_are_held_against_the_vendors_and_what_chance_makes_of_few(sizes, error, right) -> None:
    errors = Errors(whole=error)
    findings = list(imprecise(Shape(name="one", dims={}), errors, Errors(whole=3.6e-8), 3e-8, math.prod(sizes)))
    assert [f.rule for f in findings] == ([] if right else ["judge.precision"])


def test_errors_of_slices_are_held_against_the_vendors_over_all_calls_together() -> None:
    errors, shape = Errors(), Shape(name="one", dims={})
    for _ in range(7):
        errors.add(3.6e-8, {"out": [(3.6e-8, 48), (3.6e-8, 48)], "sums": [(1e-9, 48)]})
    errors.add(None, {"out": [(math.inf, 48)]})  # of nothing
    assert errors.slices == (pytest.approx(3.6e-8), 7 * 96)
    assert not list(imprecise(shape, errors, Errors(whole=3.6e-8), 3e-8, 1 << 20))
    errors.add(None, {"out": [(3e-7, 48), (3e-7, 48)]})
    (finding,) = imprecise(shape, errors, Errors(whole=3.6e-8), 3e-8, 1 << 20)
    assert finding.rule == "judge.precision"
    assert "over all calls" in finding.message


def test_where_rows_differ_in_size_slices_are_held_against_the_vendors_slices() -> None:
    vendor, errors, shape = Errors(), Errors(), Shape(name="one", dims={})
    for either in (vendor, errors):
        either.add(3.6e-8, {"out": [(9e-8, 48)] * 64})
    assert not list(imprecise(shape, errors, vendor, 3e-8, 1 << 20))


def test_a_time_below_what_the_device_can_do_is_impossible(blend: Task) -> None:
    h200 = product("h200")
    task = blend.model_copy(update={"score": blend.score.model_copy(update={"peak": "fp8"})})
    cost = Cost(flops=2 * 4096**3, read=2 * 4096**2, written=2 * 4096**2)
    floor = floor_us(cost, h200, "fp8")
    assert 60 < floor < 70  # 132 SMs x 8192 FLOP/clk at 1980 MHz
    assert impossible(floor * 1.01, cost, h200, task, task.timing[0]) is None
    finding = impossible(floor * 0.9, cost, h200, task, task.timing[0])
    assert finding is not None
    assert finding.status is Status.REJECTED


def test_every_process_is_held_to_what_the_device_can_do(blend: Task) -> None:
    device = SimpleNamespace(measures=True, cache_bytes=0)
    extras = Extras(blend, None, "burst", Plan(), product("h200"), {}, device)  # type: ignore[arg-type]
    big = Shape(name="big", dims=dict.fromkeys(blend.dims, 4096))
    arm = SimpleNamespace(deck=SimpleNamespace(outputs={}), errors=Errors())
    extras.hold(big, arm, [1e6, 1e6, 1.0])  # type: ignore[arg-type]
    with pytest.raises(Rejected, match="at its highest clock"):
        extras.hold(big, arm, [1.0, 1.0, 1e6])  # type: ignore[arg-type]


def test_batches_fit_the_memory_there_is(blend: Task) -> None:
    task, backend = (blend, hooks.load(blend), blend.timing[0]), CpuJudge("")
    found = sizes(*task, backend, None, 1e4, 4096, memory=400_000)
    roomy = sizes(*task, backend, None, 1e4, 4096, memory=1 << 30)
    assert 2 <= found.slots < roomy.slots
    assert found.variants**2 >= found.slots


def test_checks_of_large_operands_make_as_few_calls_as_there_is_room_for(blend: Task) -> None:
    shape = blend.timing[0]
    read, written = call_bytes(blend, shape.dims)
    one = 2 * read + written
    calls = [few(blend, shape, 3, memory).outputs[0].count for memory in (one, 8 * one, 1 << 30)]
    assert calls == [1, 2, 3]


def test_hidden_shapes_are_valid_and_differ_from_run_to_run(blend: Task) -> None:
    from kopt.records import Hidden

    task = blend.model_copy(update={"hidden": Hidden(count=8, dims={"M": (1, 90), "N": (3, 70), "K": (1, 64)})})
    drawn = [hidden_shapes(task, random.Random(seed)) for seed in (1, 2)]
    for shape in drawn[0]:
        task.validate_shape(shape)
        assert 1 <= shape.dims["M"] <= 90
        assert 3 <= shape.dims["N"] <= 70
    assert drawn[0] != drawn[1]
    assert stats.median(s.dims["M"] for s in drawn[0] + drawn[1]) < 45  # small sizes are not rare
