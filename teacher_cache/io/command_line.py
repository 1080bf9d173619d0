"""The frame of every command: version, shell completion, and errors in, one message and an exit status out."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from schemas.credentials import without_credentials
from schemas.errors import CacheError, CouldNotRun, ProgramFault
from schemas.report import ErrorMessage, ErrorReport
from teacher_cache.io.console import escape_standard_error, print_json, printable, printable_lines, stderr, styled

_DISTRIBUTION = "p4d-cache"

EXIT_STATUSES = {
    0: "done",
    1: "done, with failed clips (of `run`: more than engine.ok_failed_share of its clips) or findings, which are listed",
    2: "bad input",
    3: "could not run",
    4: "a fault of the program itself: one line, and a file with the traceback",
    75: "out of the time that --deadline or --max-hours gives, with work left: run it again",
    130: "stopped by Ctrl-C",
    143: "stopped by SIGTERM",
}
"""Exit status of any command → its meaning."""

# A package that only some commands need → the extra that installs it.
_EXTRAS = {
    "decord": "teach",
    "ray": "ray",
    "transformers": "train",
    "accelerate": "train",
    "av": "teach",
    "scenedetect": "shots",
}

# Errors of a disk that is full or read-only.
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


class Command(TyperCommand):
    """A command whose help ends with the exit statuses, and whose usage shows argument names without braces: ``JOB.yaml``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        statuses = "; ".join(f"{status} {meaning}" for status, meaning in EXIT_STATUSES.items())
        super().__init__(*args, **kwargs | {"epilog": f"Exit status: {statuses}."})

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """See `click.Command`; strips the braces."""
        return [piece.replace("{", "").replace("}", "") for piece in super().collect_usage_pieces(ctx)]


def command_line(name: str, description: str) -> typer.Typer:
    """An empty command line with ``--version`` and shell completion. Add commands with ``cls=Command``."""
    app = typer.Typer(name=name, help=description, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)

    @app.callback()
    def common(
        show_version: Annotated[
            bool, typer.Option("--version", is_eager=True, callback=_print_version, help="print the version")
        ] = False,
    ) -> None: ...

    common.__doc__ = description
    return app


def _print_version(is_asked: bool) -> None:
    if is_asked:
        sys.stdout.write(f"{_DISTRIBUTION} {version(_DISTRIBUTION)}\n")
        raise typer.Exit


def run_command(app: typer.Typer) -> None:
    """The entry of a console script: run the command that the arguments name."""
    escape_standard_error()
    with reported_errors("--json" in sys.argv):
        app()


@contextmanager
def reported_errors(as_json: bool) -> Iterator[None]:
    """Turn every error into one message and its exit status; Ctrl-C into 130.

    An unexpected error becomes a `ProgramFault`, and its traceback is written to a file.
    """
    try:
        yield
    except KeyboardInterrupt:
        stderr.print("stopped; what was committed stays, and the same command goes on from there")
        raise SystemExit(130) from None
    except BrokenPipeError:
        # The reader of our output is gone (`… | head`); flushing to it at exit would print a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except Exception as error:  # noqa: BLE001  # every error becomes a message
        told = _told(error)
        if as_json:
            print_json(ErrorReport(error=ErrorMessage(kind=type(told).__name__, message=str(told))))
        if (
            isinstance(told, ProgramFault) and stderr.quiet
        ):  # in a process that is otherwise silent, since another reports for all
            sys.stderr.write(f"error: {printable(str(told))}\n")
        first, *more = str(told).split("\n")
        # Indented, so that a name with a line break in it cannot look like another message.
        further = [text if text.startswith(" ") else f"  {text}" for text in more]
        stderr.print(styled(("error:", "bold red"), f" {first}"), *further, sep="\n", soft_wrap=True)
        raise SystemExit(told.exit_status) from None


def _told(error: Exception) -> CacheError:
    """The error as one that a user can act on."""
    if isinstance(error, CacheError):
        return error
    chain = list(_chain(error))
    for one in chain:
        package = (getattr(one, "name", None) or "").partition(".")[0] if isinstance(one, ModuleNotFoundError) else ""
        if package in _EXTRAS:
            remedy = f"`pip install 'p4d-cache[{_EXTRAS[package]}]'` installs it"
            return CouldNotRun(f"this needs the package {package}, which is not installed here; {remedy}")
    if any("torchvision" in str(one) for one in chain if isinstance(one, ImportError | RuntimeError | OSError)):
        return CouldNotRun(
            f"the torchvision {_version('torchvision')} installed here cannot be loaded beside torch {_version('torch')}: "
            f"{_first_line(chain[-1])}. Nothing here needs torchvision: `pip uninstall torchvision`, or install the release "
            "that matches this torch, from the same source."
        )
    return no_room(error) or ProgramFault(
        f"a fault of the program: {type(error).__name__}: {_first_line(error)}. {_kept(error)} Please report it with that."
    )


def no_room(error: Exception) -> CouldNotRun | None:
    """The error as one that a user can act on, if it is that of a full disk."""
    full = next((one for one in _chain(error) if _is_no_room(one)), None)
    if full is None:
        return None
    where = f" {full.filename}" if isinstance(full, OSError) and full.filename else ""
    return CouldNotRun(f"cannot write{where}: {_first_line(full)}. Make room there, or give another folder; then go on.")


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and its causes, outermost first."""
    following: BaseException | None = error
    seen: set[int] = set()
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        following = following.__cause__ or following.__context__


def _is_no_room(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in _NO_ROOM
    # Rust libraries (safetensors) report the system's error as text.
    return any(f"(os error {number})" in str(error) for number in _NO_ROOM)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0].rstrip(".")


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "(of unknown version)"


def _kept(error: Exception) -> str:
    """Write the traceback to a file. Returns a sentence that says where it is."""
    command = printable(" ".join(sys.argv))
    text = without_credentials(f"{command}\n\n{printable_lines(''.join(traceback.format_exception(error)))}")
    try:
        descriptor, path = tempfile.mkstemp(prefix=f"{Path(sys.argv[0]).stem}-fault-", suffix=".log")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(f"{_DISTRIBUTION} {_version(_DISTRIBUTION)}, Python {sys.version}\n{text}")
    except OSError as unwritten:
        sys.stderr.write(text)
        return f"The traceback is above, since no file could be written ({unwritten.strerror})."
    return f"The traceback is in {path}."
