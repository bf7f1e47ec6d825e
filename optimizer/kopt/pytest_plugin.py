"""pytest --kopt-task TASK --kopt-kernel FILE: the numerical checks of a kernel, one item per shape and input family.

A kernel needs no test file and no GPU. Without the two options this plugin does nothing, and imports nothing either.
"""

from __future__ import annotations

import ast
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from kopt.evaluate.answers import Problem
    from kopt.evaluate.numerics import Checked
    from kopt.records import Finding, Task

_CHECK = pytest.StashKey["KernelCheck"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("kopt", "numerical checks of a kernel")
    group.addoption("--kopt-task", metavar="TASK", help="task whose checks to run")
    group.addoption("--kopt-kernel", metavar="FILE", type=Path, help="kernel file to check")
    group.addoption(
        "--kopt-param",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="keyword-only parameter to pass to the kernel; may be given more than once",
    )
    group.addoption("--kopt-seed", metavar="N", type=int, default=0, help="seed of the inputs (default: 0)")


def pytest_configure(config: pytest.Config) -> None:
    task, kernel = config.getoption("--kopt-task"), config.getoption("--kopt-kernel")
    if task is None and kernel is None and not config.getoption("--kopt-param"):
        return
    if task is None or kernel is None:
        raise pytest.UsageError("--kopt-task and --kopt-kernel go together: which task, and which file")
    from kopt.errors import KoptError

    try:
        config.stash[_CHECK] = KernelCheck(
            task,
            kernel,
            config.getoption("--kopt-param"),
            config.getoption("--kopt-seed"),
            config.invocation_params.dir,
        )
    except KoptError as error:
        raise pytest.UsageError(str(error)) from None
    if config.args_source is not pytest.Config.ArgsSource.ARGS:
        config.args = []  # the kernel's checks alone, not all tests that happen to lie around


def pytest_unconfigure(config: pytest.Config) -> None:
    if (check := config.stash.get(_CHECK, None)) is not None:
        check.close()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    # First, so that -k selects among these items as among all others.
    if (check := config.stash.get(_CHECK, None)) is not None:
        items.extend(check.items(session))


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    if (check := session.config.stash.get(_CHECK, None)) is not None:
        check.chosen = [item.problem for item in session.items if isinstance(item, KernelItem)]


class KernelCheck:
    """One kernel and its checks; what was chosen runs in one go, when the first result is wanted."""

    def __init__(self, task: str, kernel: Path, parameters: list[str], seed: int, folder: Path) -> None:
        """UsageError for an unknown task, a file that cannot be read, a parameter that the entry does not have."""
        from kopt import content
        from kopt.errors import UsageError
        from kopt.source import read

        self.task: Task = content.load_task(task, content.workspace())
        self.path = folder / kernel
        self.seed = seed
        try:
            self.source = read(self.path)
        except UsageError as error:
            raise UsageError(f"--kopt-kernel {kernel}: {error}") from None
        self.parameters = dict(_parameter(text, self.source, self.task.entry) for text in parameters)
        self.chosen: list[Problem] = []
        self._checked: Checked | None = None

    def items(self, session: pytest.Session) -> Iterator[KernelItem]:
        from kopt.evaluate.answers import problems

        parent = KernelFile.from_parent(session, path=self.path)
        for problem in problems(self.task):
            yield KernelItem.from_parent(
                parent, name=f"{self.task.name}[{problem.shape.name}-{problem.family}]", check=self, problem=problem
            )

    def result(self, problem: Problem) -> tuple[Checked, int]:
        """All results, and the index of this problem's."""
        if self._checked is None:
            from kopt.evaluate.numerics import Numerics
            from kopt.evaluate.workers import Workers
            from kopt.machine.products import DEFAULT_TARGET, product

            target = product(DEFAULT_TARGET)
            with Workers() as workers, tempfile.TemporaryDirectory(prefix="kopt-") as store:
                numerics = Numerics(workers, Path(store))
                self._checked = numerics.check(self.task, self.source, self.parameters, self.seed, target, self.chosen)
        return self._checked, self.chosen.index(problem)

    def close(self) -> None:
        self._checked = None


class KernelFile(pytest.File):
    """The kernel's file, whose tests are not in it."""

    def collect(self) -> list[pytest.Item]:
        return []


class KernelItem(pytest.Item):
    """One shape with one family of inputs."""

    def __init__(self, *, check: KernelCheck, problem: Problem, **more: Any) -> None:
        super().__init__(**more)
        self.check = check
        self.problem = problem

    def runtest(self) -> None:
        from kopt.errors import KoptError

        try:
            checked, index = self.check.result(self.problem)
        except KoptError as error:
            pytest.exit(str(error), returncode=pytest.ExitCode.USAGE_ERROR)
        if findings := checked.findings.get(index):
            raise KernelWrong(findings)
        if checked.unavailable:
            pytest.skip(f"not checked: {checked.unavailable}")
        if index not in checked.graded:
            pytest.skip("not reached: the kernel failed before")

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, KernelWrong):
            return "\n".join(f"{finding.rule}: {finding}" for finding in excinfo.value.findings)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        return self.path, None, self.name


class KernelWrong(Exception):
    """The kernel broke a rule on this problem. Its findings say all there is to say; a traceback would be ours."""

    def __init__(self, findings: tuple[Finding, ...]) -> None:
        super().__init__("; ".join(map(str, findings)))
        self.findings = findings


def _parameter(text: str, source: str, entry: str) -> tuple[str, int | float | str | bool]:
    from kopt.errors import UsageError
    from kopt.source import SourceError, parse

    name, equals, written = text.partition("=")
    if not equals or not name:
        raise UsageError(f"--kopt-param {text}: write it as NAME=VALUE")
    try:
        known = parse(source, entry).keyword_only
    except SourceError:
        known = (name,)  # what is wrong with the file is the check's to say
    if name not in known:
        raise UsageError(f"--kopt-param {text}: {entry}() has no parameter {name}; it has {', '.join(known) or 'none'}")
    try:
        value = ast.literal_eval(written)
    except (ValueError, SyntaxError):
        value = written
    return name, value if isinstance(value, int | float | str | bool) else written
