"""What a user asks of one run: a share of the job's units, at most so many clips, until such a time."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from schemas.errors import BadInput
from teacher_cache.io.stop import Stop


@dataclass(frozen=True)
class Portion:
    """The part of a job that one run does; all of it by default."""

    shard: tuple[int, int] = (0, 1)
    """(i, n): the units whose number leaves i when divided by n. The n runs share no unit, whenever each begins."""
    limit: int | None = None
    """So many clips, rounded up to whole units."""
    until: datetime | None = None
    """When the run is to have ended, with a time zone."""

    @property
    def is_all(self) -> bool:
        """Whether no unit is left to other runs."""
        return self.shard[1] == 1 and self.limit is None

    def after(self, clips: int) -> Portion:
        """What is left of it once so many clips are done."""
        return self if self.limit is None else replace(self, limit=max(0, self.limit - clips))

    def bound(self, stop: Stop, grace_seconds: float) -> None:
        """Have ``stop`` set so early that the units then in work can be finished."""
        if self.until is not None:
            stop.at(self._seconds_left() - grace_seconds, f"its deadline, {self._time()}")

    def require_time(self, grace_seconds: float) -> None:
        """Raises `BadInput` if no unit could begin, since the run would have to end at once."""
        if self.until is not None and (left := self._seconds_left()) <= grace_seconds:
            raise BadInput(
                f"the deadline, {self._time()}, leaves {left:.0f} s, and no unit begins in the last {grace_seconds:g} s "
                "(engine.grace_seconds); give a later one"
            )

    def _seconds_left(self) -> float:
        assert self.until is not None
        return (self.until - datetime.now(UTC)).total_seconds()

    def _time(self) -> str:
        assert self.until is not None
        return f"{self.until.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


ALL = Portion()


def portion(
    shard: str | None = None, limit: int | None = None, deadline: str | None = None, max_hours: float | None = None
) -> Portion:
    """The portion that a command's options give. Raises `BadInput`."""
    if deadline is not None and max_hours is not None:
        raise BadInput("--deadline and --max-hours both say when the run ends; give one of them")
    until = None if deadline is None else _time(deadline)
    if max_hours is not None:
        until = _in_hours(max_hours)
    return Portion((0, 1) if shard is None else _shard(shard), limit, until)


def _shard(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if found is None or not int(found[1]) < int(found[2]):
        raise BadInput(f"--shard is {text!r}; needed i/n with i from 0 to n - 1, such as 0/8 to 7/8 for eight runs")
    return int(found[1]), int(found[2])


def _time(text: str) -> datetime:
    try:
        # Without a zone it is of this machine's, as people write times. At an end of the calendar, UTC may have no date.
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        raise BadInput(f"--deadline is {text!r}; needed a time such as 2026-12-24T18:00+01:00") from None


def _in_hours(hours: float) -> datetime:
    try:
        return datetime.now(UTC) + timedelta(hours=hours)
    except (ValueError, OverflowError):  # not a number, or after the year 9999
        raise BadInput(
            f"--max-hours is {hours:g}; needed hours from now that end before the year 10000; leave it out for no limit"
        ) from None
