"""The contract of a kernel file and what it may not ask for: one rule, one test."""

from __future__ import annotations

from pathlib import Path

import pytest

from kopt import content
from kopt.evaluate.policy import check
from kopt.records import Status

HONEST = '''"""A title."""
import torch
import triton
import triton.language as tl

TUNE = {"BLOCK": [16, 32]}

@triton.jit
def kernel(a, out, n, BLOCK: tl.constexpr):
    pass

def entry(a, out, *, BLOCK=16):
    kernel[(1,)](a, out, a.numel(), BLOCK=BLOCK)
'''


def rules(source: str, **parameters: object) -> list[str]:
    return [f.rule for f in check(source, "entry", 2, parameters) if f.status]


def test_an_honest_file_passes() -> None:
    assert rules(HONEST, BLOCK=32) == []


def test_every_shipped_family_and_the_skeleton_pass() -> None:
    root = content.workspace()
    task = content.load_task("fp8_gemm", root)
    files = [*content.families(task, root), Path(task.folder) / "skeleton.py"]
    assert len(files) >= 7
    for path in files:
        assert not [f for f in check(path.read_text(), task.entry, len(task.tensors)) if f.status], path


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (("def entry(", "def another("), "policy.entry"),
        (("(a, out, *, BLOCK=16)", "(a, *, BLOCK=16)"), "policy.signature"),
        (("(a, out, *, BLOCK=16)", "(*tensors, BLOCK=16)"), "policy.signature"),
        (("(a, out, *, BLOCK=16)", "(a, out, *, BLOCK)"), "policy.signature"),
        (('{"BLOCK": [16, 32]}', '{"BLOK": [16, 32]}'), "policy.tune"),
        (('{"BLOCK": [16, 32]}', '{"BLOCK": []}'), "policy.tune"),
        (('{"BLOCK": [16, 32]}', "make_space()"), "policy.tune"),
        (('{"BLOCK": [16, 32]}', '{"BLOCK": [[16]]}'), "policy.tune"),
        (("import torch\n", "import os\n"), "policy.import"),
        (("import torch\n", "import cupy\n"), "policy.import"),
        (("import torch\n", "from . import torch\n"), "policy.import"),
        (("import torch\n", "import torch\nfrom torch.utils import cpp_extension\n"), "policy.import"),
        (("import torch\n", "import torch\ntorch.utils.cpp_extension.load\n"), "policy.import"),
        (("import torch\n", "import torch\ntorch.allclose = print\n"), "policy.monkeypatch"),
        (("import torch\n", "import torch\ntorch.cuda.Event.record = print\n"), "policy.monkeypatch"),
        (("import torch\n", "import torch as t\ndel t.allclose\n"), "policy.monkeypatch"),
        (("import torch\n", "import torch\nexec('1')\n"), "policy.call"),
        (("import torch\n", "import torch\nopen('/tmp/x', 'w')\n"), "policy.call"),
        (("import torch\n", "import torch\nsetattr(torch, 'allclose', print)\n"), "policy.call"),
        (("import torch\n", "import torch\n().__class__.__base__.__subclasses__()\n"), "policy.dunder"),
        (("import torch\n", "import torch\ngetattr(torch, '__builtins__')\n"), "policy.dunder"),
        (("import torch\n", "import torch\ntorch.cuda.Event().elapsed_time(1)\n"), "policy.attribute"),
        (("import torch\n", "import torch\ntriton.runtime.driver.set_active(1)\n"), "policy.attribute"),
        (("import torch\n", "import torch\ntorch.sys._getframe\n"), "policy.attribute"),
        (("import torch\n", "import torch\nt = torch\nt.cuda.os\n"), "policy.attribute"),
        (("import torch\n", "import torch\nfrom torch import sys\n"), "policy.import"),
        (("import torch\n", "import torch\nfrom types import CodeType\n"), "policy.import"),
        (("import torch\n", "import torch\nfrom collections import _sys\n"), "policy.import"),
        (("import torch\n", "import torch\ngetattr(torch, 'sys')\n"), "policy.attribute"),
        (("import torch\n", "import torch\ngetattr(torch, 's' + 'ys')\n"), "policy.call"),
        (("import torch\n", "import torch\ng = getattr\n"), "policy.call"),
        (("import torch\n", "import torch\nlist(map(getattr, [torch], ['s' + 'ys']))\n"), "policy.call"),
        (("import torch\n", "import torch\ngetattr(*(torch, 's' + 'ys'))\n"), "policy.call"),
        (("import torch\n", "import torch\ngetattr(*(torch, 'sys'), 'x')\n"), "policy.call"),
        (("import torch\n", "import operator\nk = operator.attrgetter\nk('s' + 'ys')\n"), "policy.call"),
        (("import torch\n", "import string\nstring.Formatter().get_field('0.sys', [1], {})\n"), "policy.attribute"),
        (("import torch\n", "import typing\ntyping.get_type_hints(f)\n"), "policy.attribute"),
        (("import torch\n", "from torch._utils import *\n"), "policy.import"),
        (("import torch\n", "from torch.utils._python_dispatch import _disable_current_modes\n"), "policy.import"),
        (("import torch\n", "from triton import knobs\n"), "policy.import"),
        (("import torch\n", "import triton as t\nu = t\nu.knobs.runtime\n"), "policy.attribute"),
        (("import torch\n", "import torch\nfor torch.cuda.synchronize in [1]:\n    pass\n"), "policy.monkeypatch"),
        (("import torch\n", "import torch\nwith f() as torch.cuda.synchronize:\n    pass\n"), "policy.monkeypatch"),
        (("import torch\n", "import torch\n[1 for torch.cuda.synchronize in (1,)]\n"), "policy.monkeypatch"),
        (("import torch\n", "import torch\nc = torch.cuda\nc.synchronize = 1\n"), "policy.monkeypatch"),
        (("import torch\n", "from operator import attrgetter\nattrgetter('a.f_locals')\n"), "policy.attribute"),
        (("import torch\n", "import operator\noperator.attrgetter(input)\n"), "policy.call"),
        (("import torch\n", "import torch\ne = exec\n"), "policy.call"),
        (("import torch\n", "import torch\ndef f(open=open):\n    pass\n"), "policy.call"),
        (("import torch\n", "match 1:\n    case int(f_back=f):\n        pass\n"), "policy.attribute"),
        (("import torch\n", "class C:\n    __match_args__ = ('f_back',)\n"), "policy.dunder"),
        (("import torch\n", "def __getattr__(name):\n    pass\n"), "policy.dunder"),
        (("import torch\n", "import torch\nN = 0x1_0000_0000_0000_0000\n"), "policy.number"),
        (('"""A title."""', "# coding: utf-7"), "policy.encoding"),
        (('"""A title."""', "\r#\tvim: set fileencoding=Unicode_Escape :"), "policy.encoding"),
        (("import torch\n", "import torch(\n"), "policy.syntax"),
        (("import torch\n", "import torch\0\n"), "policy.syntax"),
    ],
)
def test_a_breach_is_named(change: tuple[str, str], rule: str) -> None:
    broken = HONEST.replace(*change)
    assert broken != HONEST
    assert rule in rules(broken)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""A title."""', "# -*- coding: UTF-8 -*-"),
        ("import torch\n", "import torch\n# the coding: utf-7 of old\n"),
        ("import torch\n", "import torch\ndef scaled(input, vars):\n    return input * vars\n"),
        ("import torch\n", "import torch\nDTYPE = getattr(torch, 'float8_e4m3fn', None)\n"),
        ("import torch\n", "class Shape:\n    def __add__(self, other):\n        return self\n"),
        ("import torch\n", "import torch\nN = 0xFFFF_FFFF_FFFF_FFFF\n"),
        ("import torch\n", "if __name__ == '__main__':\n    pass\n"),
    ],
)
def test_what_resembles_a_breach_passes(old: str, new: str) -> None:
    assert rules(HONEST.replace(old, new)) == []


def test_a_parameter_that_the_entry_lacks_is_named() -> None:
    (finding,) = check(HONEST, "entry", 2, {"BLOK": 1})
    assert finding.rule == "policy.parameters"
    assert "'BLOK'" in finding.message


def test_a_finding_says_the_line() -> None:
    (finding,) = check(HONEST.replace("import torch\n", "import torch\nimport os\n"), "entry", 2)
    assert finding.place == "line 3"


def test_a_syntax_error_is_a_compile_error_and_not_a_rejection() -> None:
    (finding,) = check("def entry(:", "entry", 2)
    assert finding.status is Status.COMPILE_ERROR


def test_a_file_of_megabytes_is_refused_unread() -> None:
    assert rules("#" * (2 << 20)) == ["policy.size"]


def test_words_about_provenance_in_text_are_no_reason() -> None:
    assert rules(HONEST.replace('"""A title."""', '"""Beats torch.matmul and cuBLAS; casts .to(bfloat16)."""')) == []
