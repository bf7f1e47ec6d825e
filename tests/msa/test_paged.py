"""Decoding over pages is MSA of the last query over what the pages hold, and nothing else is looked at."""

from __future__ import annotations

import sys

import pytest

if sys.platform != "linux":
    pytest.skip("evaluation is for Linux", allow_module_level=True)

import torch

from kopt.msa import cache, paged, reference

torch.set_num_threads(1)
LONG = {"B": 2, "HQ": 16, "HKV": 2, "PAGES": 50, "WIDTH": 22}
SHORT = {"B": 8, "HQ": 8, "HKV": 1, "PAGES": 26, "WIDTH": 3}


def flat(inputs: dict[str, torch.Tensor], b: int) -> dict[str, torch.Tensor]:
    """Keys, values and index keys of one request in order."""
    length = int(inputs["lens"][b])
    pages = inputs["table"][b, : -(-length // 128)].long()
    k, v = (inputs[name][pages].transpose(1, 2).flatten(0, 1)[:length] for name in ("kc", "vc"))
    return {"k": k, "v": v, "ik": inputs["ikc"][pages].flatten(0, 1)[:length]}


@pytest.mark.parametrize("dims", [LONG, SHORT])
@pytest.mark.parametrize("family", ["paged", "contiguous", "ragged"])
def test_it_is_the_published_definition(family: str, dims: dict[str, int]) -> None:
    inputs = cache.make_inputs(dims, family, 1, "cpu")
    found = paged.decode_rows(inputs).out
    for b in range(dims["B"]):
        one = flat(inputs, b)
        cu_q, cu_k = torch.tensor([0, 1]), torch.tensor([0, one["k"].shape[0]])
        ids = reference.select(inputs["iq"][b : b + 1], one["ik"], cu_q, cu_k)
        want, _ = reference.attend(inputs["q"][b : b + 1], one["k"], one["v"], ids, cu_q, cu_k)
        assert torch.allclose(found[b], want[0], atol=1e-12)


def test_up_to_16_blocks_it_is_dense_attention() -> None:
    inputs = cache.make_inputs({**LONG, "WIDTH": 16}, "paged", 2, "cpu")
    found = paged.decode_rows(inputs).out
    for b in range(2):
        one = flat(inputs, b)
        cu_k = torch.tensor([0, one["k"].shape[0]])
        want, _ = reference.dense(inputs["q"][b : b + 1], one["k"], one["v"], torch.tensor([0, 1]), cu_k)
        assert torch.allclose(found[b], want[0], atol=1e-12)


@pytest.mark.parametrize("e4m3", [False, True])
@pytest.mark.parametrize("family", cache.FAMILIES)
def test_what_is_not_in_use_is_nan_and_does_not_show(family: str, e4m3: bool) -> None:
    inputs = cache.make_inputs(SHORT, family, 3, "cpu", e4m3=e4m3)
    assert inputs["kc"].float().isnan().any()
    assert paged.decode_rows(inputs).out.isnan().any() == (family == "odd")


def test_no_tokens_and_no_pages_make_zeros() -> None:
    inputs = cache.make_inputs(SHORT, "paged", 4, "cpu")
    inputs["lens"][0], inputs["lens"][1] = 0, -5
    inputs["table"][2] = 26
    assert (paged.decode_rows(inputs).out[:3] == 0).all()


def test_a_block_without_a_page_is_a_block_without_tokens() -> None:
    inputs = cache.make_inputs({**SHORT, "B": 1}, "paged", 5, "cpu")
    inputs["lens"][0] = 3 * 128
    whole = paged.listed(inputs["iq"][0], inputs["ikc"], inputs["table"][0], 384)
    inputs["table"][0, 1] = -1
    without = paged.listed(inputs["iq"][0], inputs["ikc"], inputs["table"][0], 384)
    assert whole.blocks.tolist() == [[0, 1, 2]]
    assert without.blocks.tolist() == [[0, 2]]
    assert (whole.tokens, without.tokens) == (384, 256)


def test_lengths_beyond_the_table_end_with_it() -> None:
    inputs = cache.make_inputs({**SHORT, "B": 1}, "ragged", 6, "cpu")
    want = paged.decode_rows(inputs).out
    inputs["lens"][0] = 2**31 - 1
    assert torch.equal(paged.decode_rows(inputs).out, want)


def test_pick_gives_rows_of_values() -> None:
    inputs = cache.make_inputs(LONG, "pick", 7, "cpu", e4m3=True)
    found = paged.decode_rows(inputs).out
    rows = inputs["vc"].double().flatten(0, 2) * inputs["scales"][1].double()
    assert all(((rows - row).abs() < 1e-12).all(1).any() for row in found.flatten(0, 1))


def test_some_requests_alone_are_those_of_all() -> None:
    inputs = cache.make_inputs(SHORT, "ragged", 8, "cpu")
    every = paged.decode_rows(inputs).out
    assert torch.equal(paged.decode_rows(inputs, torch.tensor([5, 0])).out, every[[5, 0]])


def test_cost_is_of_what_has_to_be_read() -> None:
    dims = {"B": 1, "HQ": 64, "HKV": 4, "PAGES": 8192, "WIDTH": 8192}
    tokens, listed = 8192 * 128, 2048
    assert paged.cost(dims, "paged", 2)["read"] == pytest.approx(2 * 128 * (tokens + 2 * 4 * listed), rel=1e-3)
    assert paged.cost(dims, "paged", 1)["read"] == pytest.approx(128 * (tokens + 2 * 4 * listed), rel=1e-3)
