"""Tasks and families are found where they should be, and what is wrong with a task.toml is said by key."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from kopt import content
from kopt.errors import UsageError

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A workspace with a copy of fp8_gemm under the name mine."""
    (tmp_path / content.MARKER).touch()
    shutil.copytree(REPOSITORY / "tasks" / "fp8_gemm", tmp_path / "tasks" / "mine")
    return tmp_path


def edit(root: Path, old: str, new: str) -> None:
    path = root / "tasks" / "mine" / "task.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_a_task_of_the_workspace_and_those_that_ship_are_listed(root: Path) -> None:
    assert {"mine", "fp8_gemm"} <= set(content.list_tasks(root))


def test_a_task_of_the_workspace_hides_one_that_ships(root: Path) -> None:
    (root / "tasks" / "mine").rename(root / "tasks" / "fp8_gemm")
    assert Path(content.load_task("fp8_gemm", root).folder) == root / "tasks" / "fp8_gemm"


def test_a_task_that_ships_is_found_from_an_empty_folder(tmp_path: Path) -> None:
    assert content.load_task("fp8_gemm", tmp_path).name == "fp8_gemm"


def test_an_unknown_task_lists_the_known_ones(root: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown task 'zzz' \(known: .*fp8_gemm.*mine"):
        content.load_task("zzz", root)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('peak = "fp8"\n', "", "score.peak: missing"),
        ('metric = "utilization"', 'metrik = "utilization"', "score.metrik: unknown key"),
        ('metric = "utilization"', 'metric = "speed"', "score.metric: Input should be 'utilization' or 'roofline'"),
        ("relative_rms = 1e-2", "relative_rms = -1", "tolerance.relative_rms: Input should be greater than 0, not -1"),
        ("M = 4096, N = 4096", "M = 'a', N = 4096", "timing.0.dims.M"),
        ("M = 4096, N = 4096", "M = 4096, N = 4095", "timing '4k-cube': N = 4095 is not a multiple of 16"),
        ('dims = ["N", "K"]', 'dims = ["N", "L"]', "tensors.b.dims names 'L', which is not in [dims]"),
        ('"one_hot"]', '"one_hott"]', "tolerance.exact_inputs names 'one_hott'"),
        ('dtype = "bfloat16"', 'dtype = "bf16"', "tensors.4.dtype"),
        ("[dims]", "[dims", "not valid TOML"),
        ("title =", 'name = "other"\ntitle =', "name: must be the folder's name, 'mine'"),
        ("title =", 'sha = "0"\ntitle =', "sha: filled in by kopt"),
    ],
)  # fmt: skip
def test_a_malformed_task_names_file_and_key(old: str, new: str, says: str, root: Path) -> None:
    edit(root, old, new)
    with pytest.raises(UsageError) as error:
        content.load_task("mine", root)
    assert says in str(error.value)
    for line in str(error.value).splitlines():
        assert line.startswith(str(root / "tasks" / "mine" / "task.toml"))


def test_every_mistake_gets_a_line(root: Path) -> None:
    edit(root, 'peak = "fp8"\n', "")
    edit(root, "relative_rms = 1e-2", "relative_rms = 0")
    with pytest.raises(UsageError) as error:
        content.load_task("mine", root)
    assert len(str(error.value).splitlines()) == 2


@pytest.mark.parametrize(("file", "changes"), [
    ("task.toml", True), ("task.py", True), ("skeleton.py", True), ("README.md", False),
])  # fmt: skip
def test_the_sha_changes_with_what_a_task_is_made_of(file: str, changes: bool, root: Path) -> None:
    before = content.load_task("mine", root).sha
    with (root / "tasks" / "mine" / file).open("a") as text:
        text.write("\n# one more line\n")
    assert (content.load_task("mine", root).sha != before) is changes


def test_the_sha_does_not_depend_on_where_the_folder_lies(root: Path) -> None:
    assert content.load_task("mine", root).sha == content.load_task("fp8_gemm", root).sha


def test_families_of_the_workspace_join_and_hide_those_that_ship(root: Path) -> None:
    folder = root / "kernels" / "fp8_gemm"
    folder.mkdir(parents=True)
    for name in ("naive.py", "own.py", "_helper.py", "notes.txt"):
        (folder / name).touch()
    found = {path.stem: path for path in content.families("fp8_gemm", root)}
    assert found["naive"] == folder / "naive.py"
    assert found["own"] == folder / "own.py"
    assert found["k_major"].is_relative_to(REPOSITORY)
    assert "_helper" not in found
    assert "notes" not in found


def test_skeleton_and_description_are_text_and_their_absence_is_named(root: Path) -> None:
    task = content.load_task("mine", root)
    assert "def fp8_gemm(" in content.skeleton(task)
    assert content.description(task).startswith("# ")
    (root / "tasks" / "mine" / "README.md").unlink()
    with pytest.raises(UsageError, match=r"README\.md"):
        content.description(task)


def test_the_workspace_is_the_nearest_marked_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root / "tasks" / "mine")
    assert content.workspace() == root
    assert content.workspace(root / "tasks") == root / "tasks"


def test_without_a_marker_the_workspace_is_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert content.workspace() == tmp_path


def test_a_workspace_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere is not a folder"):
        content.workspace(tmp_path / "nowhere")
