"""Errors a user meets: each says what was found, what was needed and what to do, and carries its exit status."""

from __future__ import annotations

from typing import ClassVar

from schemas.credentials import without_credentials


class CacheError(Exception):
    """The base of every error this project raises on purpose. Its text is for the user, never a traceback.

    Whatever was quoted into the text, no credential that a URL held comes out with it.
    """

    exit_status: ClassVar[int] = 3

    def __init__(self, message: str = "") -> None:
        super().__init__(without_credentials(message))

    def __reduce__(self) -> tuple[object, tuple[type[CacheError], tuple[object, ...], dict[str, object]]]:
        # Errors come back from other processes; Python would call __init__ with the message alone.
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
    """The input is good, but what it needs is absent: a server, a right, a package, memory."""

    exit_status: ClassVar[int] = 3


class ProgramFault(CacheError):
    """The program itself is at fault: an error that nothing in it foresaw. The traceback is in a file that the text names."""

    exit_status: ClassVar[int] = 4


class Stopped(CacheError):
    """The run was told to stop from outside, and did. What it committed stays."""

    exit_status: ClassVar[int] = 143  # 128 + SIGTERM, as shells have it


class StoreNotFound(BadInput):
    """There is no store at the given URL."""


class StoreDamaged(CouldNotRun):
    """An object of the store contradicts the ledger or the format."""


class Unreachable(CouldNotRun):
    """A store or a video lies where nothing answers, or where the credentials were refused."""


class Forked(CouldNotRun):
    """An open store was carried into another process by a fork."""


class RecipeMismatch(BadInput):
    """A store was written under another recipe than the one asked for.

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
    """A clip id that the store's catalog does not hold."""

    __str__ = Exception.__str__  # KeyError would print the repr of its argument


class ClipFailed(CacheError):
    """The clip has a row, but its targets could not be made; ``reason`` is the recorded code."""

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
    """A signal that the store does not hold."""


class JoinRefused(BadInput):
    """Stores that are not of the same clips and frames, and so cannot be read as one."""


class ViewRefused(BadInput):
    """A signal that cannot be had in the view asked for."""


class VideoError(CacheError):
    """One video cannot give its frames. It costs its own clips a failed row, and nothing else.

    ``reason`` is one of `schemas.clip.FailureReason`.
    """

    exit_status: ClassVar[int] = 1

    def __init__(self, reason: str, detail: str) -> None:
        self.reason, self.detail = reason, without_credentials(detail)  # the ledger keeps both
        super().__init__(f"{reason}: {detail}")
