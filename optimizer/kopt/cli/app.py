"""The `kopt` command: its commands, what all of them share, and how every one of them ends."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import kopt
from kopt.cli import archive, audit, bench, check, doctor, driving, look, profile, publish, report, run, start, tasks
from kopt.cli.shared import INTERRUPTED, PIPE_CLOSED, Shared
from kopt.errors import ExitCode, KoptError

EPILOG = (
    "Exit codes: 0 done, 1 the kernel failed, 2 wrong usage, 3 this machine cannot do it, 4 kopt itself broke, "
    "130 interrupted (kopt resume goes on)."
)


class Commands(TyperGroup):
    """A closed pipe is no error of anybody's, and neither is Ctrl-C."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise typer.Exit(PIPE_CLOSED) from None
        except KeyboardInterrupt as stop:
            if stop.args:  # how to go on
                print(f"kopt: interrupted; {stop}", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    name="kopt",
    cls=Commands,
    help="Optimize GPU kernels: propose, check, measure, keep the best.",
    epilog=EPILOG,
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,  # rich costs a tenth of a second that help does not need
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kopt {kopt.__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _shared(
    ctx: typer.Context,
    workspace: Annotated[
        Path | None,
        typer.Option(help="Folder with submissions/, tasks/, ...; else the nearest with a kopt.toml, else this one."),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback when kopt itself breaks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    shared = ctx.ensure_object(Shared)
    shared.workspace, shared.debug = workspace, debug or bool(os.environ.get("KOPT_DEBUG"))
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


for module in (run, look, check, archive, doctor, driving, start, report, publish, bench, audit, profile):
    module.add(app)
app.add_typer(tasks.app, name="tasks")


def main() -> None:
    """Run the command line and leave with its exit code: one line for what kopt can explain, never a traceback."""
    shared = Shared()
    for stream in (sys.stdout, sys.stderr):
        # A note in any script must not break a terminal that cannot show it.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = app(prog_name="kopt", standalone_mode=False, obj=shared)
        sys.stdout.flush()
    except BrokenPipeError:
        code = PIPE_CLOSED
    except KeyboardInterrupt:
        code = INTERRUPTED
    except KoptError as error:
        code = _say(str(error), error.code)
    except typer.Abort:
        code = INTERRUPTED
    except SystemExit as end:  # typer's own: completion scripts
        code = end.code
    except Exception as error:
        # What typer raises for wrong arguments has these two; the class itself is not public in all versions.
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):
            code = _say(f"{error.format_message()} ({_command(error)} --help)", ExitCode.USAGE)
        else:
            code = _crash(error, shared)
    if code == PIPE_CLOSED:
        # Python flushes once more when it ends; let that go nowhere instead of failing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code if isinstance(code, int) else ExitCode.DONE)


def _say(message: str, code: int) -> int:
    from kopt.text import plain

    lines = plain(message).strip().splitlines() or ["unknown"]
    for text in lines:
        print(f"kopt: error: {text.strip()}", file=sys.stderr)
    return int(code)


def _command(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    return str(getattr(context, "command_path", "kopt"))


def _crash(error: Exception, shared: Shared) -> int:
    """Something kopt cannot explain: one line, and a file that holds the rest."""
    import traceback

    text = "".join(traceback.format_exception(error))
    if shared.debug:
        print(text, file=sys.stderr)
    where = _log(text)
    kept = f"; what happened is in {where}" if where else "; run it again with --debug to see where"
    first = str(error).splitlines()[0] if str(error) else ""
    return _say(f"kopt broke: {type(error).__name__}: {first}{kept}", ExitCode.HARNESS)


def _log(text: str) -> Path | None:
    """Write the traceback where the user's state lives, else among temporary files."""
    import platform
    import tempfile
    import time

    head = f"kopt {kopt.__version__}, Python {platform.python_version()}, {platform.platform()}\n{sys.argv!r}\n\n"
    name = f"crash-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    for folder in (Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state") / "kopt", Path(tempfile.gettempdir())):
        try:
            path = folder.expanduser() / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(head + text, encoding="utf-8", errors="backslashreplace")
        except (OSError, RuntimeError):
            continue
        return path
    return None
