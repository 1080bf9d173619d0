"""Errors for users: each message says what was found, what was needed and what to do; each class has its exit status."""

from __future__ import annotations

from typing import ClassVar

from schemas.credentials import without_credentials


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without a full stop; its type's name if it has no message."""
    said = str(error).strip()
    return said.splitlines()[0].rstrip(".") if said else type(error).__name__


class CacheError(Exception):
    """The base of every error that this project raises on purpose. Users see its message, without a traceback.

    Credentials in URLs are removed from the message.
    """

    exit_status: ClassVar[int] = 3
    """Exit status of a command that ends with this error."""

    def __init__(self, message: str = "") -> None:
        super().__init__(without_credentials(message))

    def __reduce__(self) -> tuple[object, tuple[type[CacheError], tuple[object, ...], dict[str, object]]]:
        # Errors are pickled between processes; by default Python would call __init__ with the message alone.
        return _rebuilt, (type(self), self.args, self.__dict__)


def _rebuilt(kind: type[CacheError], arguments: tuple[object, ...], fields: dict[str, object]) -> CacheError:
    error = kind.__new__(kind)
    error.args = arguments
    error.__dict__.update(fields)
    return error


class BadInput(CacheError):
    """The user's input cannot be used: a job file, a manifest, a path, an argument."""

    exit_status: ClassVar[int] = 2


class CouldNotRun(CacheError):
    """The input is good, but something it needs is missing: a server, a permission, a package, memory."""

    exit_status: ClassVar[int] = 3


class ProgramFault(CacheError):
    """A bug: an error that the program did not expect. The message names a file with the traceback."""

    exit_status: ClassVar[int] = 4


class Stopped(CacheError):
    """The run was asked to stop (SIGTERM), and did. What it committed stays."""

    exit_status: ClassVar[int] = 143  # 128 + SIGTERM, as in shells


class OutOfTime(Stopped):
    """The run came to the end of the time it was given, with work left. What it committed stays."""

    exit_status: ClassVar[int] = 75  # EX_TEMPFAIL of sysexits.h: try again


class StoreNotFound(BadInput):
    """There is no store at the given URL."""


class StoreDamaged(CouldNotRun):
    """An object of the store does not match the log or the format."""


class Unreachable(CouldNotRun):
    """The server of a store or a video does not answer, or refuses the credentials."""


class Diverged(CouldNotRun):
    """The loss or the gradient of a training step is no finite number, in more steps than may be skipped."""


class TeacherFailed(CouldNotRun):
    """A teacher cannot go on: its device, its memory or its machine is at fault. Teachers elsewhere may."""


class Forked(CouldNotRun):
    """A forked process was to write to a bucket that its parent had in use. Forked processes read, and new ones write."""


class RecipeMismatch(BadInput):
    """The store was written with another recipe than the job's.

    ``differences`` maps a field's dotted path to (value in the store, value asked for).
    """

    def __init__(self, store: str, differences: dict[str, tuple[object, object]]) -> None:
        self.differences = differences
        fields = "\n".join(f"  {path}: store has {old!r}, job asks for {new!r}" for path, (old, new) in differences.items())
        super().__init__(
            f"the store {store} was written under another recipe; these fields differ:\n{fields}\n"
            "Point the job at another store, or give these fields the store's values."
        )


class UnknownClip(BadInput, KeyError):
    """The store's catalog has no such clip id."""

    __str__ = Exception.__str__  # KeyError would print the repr of its argument


class ClipFailed(CacheError):
    """The clip is in the catalog, but its targets could not be made; ``reason`` is a `schemas.clip.FailureReason`."""

    exit_status: ClassVar[int] = 1

    def __init__(self, clip_id: str, reason: str, detail: str, store: str) -> None:
        self.clip_id, self.reason, self.detail = clip_id, reason, detail
        super().__init__(
            f"clip {clip_id!r} has no targets: {reason} ({detail}), in the store {store}. "
            "Leave it out (cache.clips has every clip's status), or fix the video and run the job with --retry-failed."
        )


class ClipPending(CacheError):
    """The clip is planned, but its signals are not committed yet."""

    exit_status: ClassVar[int] = 1


class SignalMissing(BadInput):
    """The store does not hold this signal."""


class JoinRefused(BadInput):
    """Stores with different clips or frames cannot be read as one."""


class ViewRefused(BadInput):
    """A signal cannot be given in the requested view, such as features in a mirror."""


class VideoError(CacheError):
    """A video cannot give its frames. Only its own clips are recorded as failed.

    ``reason`` is one of `schemas.clip.FailureReason`.
    """

    exit_status: ClassVar[int] = 1

    def __init__(self, reason: str, detail: str) -> None:
        self.reason, self.detail = reason, without_credentials(detail)  # the log keeps both
        super().__init__(f"{reason}: {detail}")
