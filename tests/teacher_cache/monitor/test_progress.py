"""What a run's events add up to, whatever their order and whatever the clock does."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.event import RunFinished, RunStarted, Stopping, TeacherLost, TeacherStarted, Waiting
from schemas.report import ClipCounts, FailedClip, StageSeconds, UnitReport
from teacher_cache.monitor.progress import RECENT_SECONDS, RunProgress

REASONS = ("not_a_video", "decode_timeout", "no_frames")
SECONDS = st.floats(0, 1e4)


def started(teacher="t-0", devices=1):
    return TeacherStarted(teacher=teacher, node="n", devices=tuple(f"cuda:{i}" for i in range(devices)))


def lost(teacher="t-0"):
    return TeacherLost(teacher=teacher, node="n", reason="gone", units=1)


def unit(committed=2, reasons=(), teach=1.0, size=100, already_done=False, **seconds):
    failures = tuple(FailedClip(clip_id=f"c{i}", video="v", reason=reason, detail="d") for i, reason in enumerate(reasons))
    return UnitReport(
        unit="u", teacher="t-0", committed=committed, failed=len(failures), bytes=size,
        seconds=StageSeconds(teach=teach, **seconds), failures=failures, already_done=already_done,
    )  # fmt: skip


def run(clips=100):
    return RunStarted(store="s", fingerprint="f", clips=clips, units=clips // 2, done_before=0)


FINISHED = RunFinished(clips=ClipCounts(planned=1, committed=1, failed=0, pending=0), wall_seconds=1)

TEACHERS = st.sampled_from(("t-0", "t-1", "t-2", ""))
UNITS = st.builds(
    unit, st.integers(0, 40), st.lists(st.sampled_from(REASONS), max_size=4), SECONDS, st.integers(0, 10**12), st.booleans(),
    decode=SECONDS, put=SECONDS,
)  # fmt: skip
EVENTS = st.one_of(
    UNITS,
    st.builds(started, TEACHERS, st.integers(0, 8)),
    st.builds(lost, TEACHERS),
    st.builds(run, st.integers(0, 1000)),
    st.builds(Waiting, teachers=st.integers(0, 3), detail=st.text(max_size=5)),
    st.builds(Stopping, reason=st.text(max_size=5), grace_seconds=st.floats(0, 60)),
    st.just(FINISHED),
)
# Steps of the clock: it may stand still, go back, or leap over all windows.
STEPS = st.one_of(st.just(0.0), st.floats(-5, 5), st.floats(0, 5000))


def fold(told, began=0.0):
    """The progress after (seconds since the event before, event), and the time it then is."""
    progress, now = RunProgress(began), began
    for step, event in told:
        now += step
        progress = progress.after(event, now)
    return progress, now


@given(st.lists(st.tuples(STEPS, EVENTS), max_size=60), STEPS)
def test_any_order_of_events_adds_up_and_every_figure_is_a_number_of_its_range(told, later):
    progress, now = fold(told)
    figures = progress.figures(now + later)
    units = [event for _, event in told if isinstance(event, UnitReport)]
    assert figures.done == sum(event.committed + event.failed for event in units)
    assert figures.failed == sum(event.failed for event in units)
    assert dict(figures.failures) == Counter(failure.reason for event in units for failure in event.failures)
    assert list(figures.failures.values()) == sorted(figures.failures.values(), reverse=True)
    at_work: dict[str, int] = {}
    for _, event in told:
        if isinstance(event, TeacherStarted):
            at_work[event.teacher] = len(event.devices)
        elif isinstance(event, TeacherLost):
            at_work.pop(event.teacher, None)
    assert (figures.teachers, figures.devices) == (len(at_work), sum(at_work.values()))
    for rate in (
        figures.clips_per_second, figures.clips_per_second_recent, figures.bytes_per_second, figures.eta_seconds,
        figures.elapsed_seconds,
    ):  # fmt: skip
        assert rate is None or (math.isfinite(rate) and rate >= 0)
    for share in (figures.busy, figures.busy_recent, *figures.stages.values()):
        assert share is None or 0 <= share <= 1
    assert not figures.stages or sum(figures.stages.values()) == pytest.approx(1)
    assert len(progress.samples) < 1000


@given(st.lists(st.tuples(st.just(0.0), EVENTS), max_size=20))
def test_a_clock_that_stands_still_gives_no_rates(told):
    progress, now = fold(told)
    figures = progress.figures(now)
    assert figures.elapsed_seconds == 0
    assert figures.clips_per_second is None
    assert figures.clips_per_second_recent is None
    assert figures.busy is None
    assert figures.eta_seconds in {None, 0.0}


@given(st.lists(st.tuples(st.floats(0, 100), UNITS), min_size=1, max_size=30), st.randoms())
def test_counts_do_not_depend_on_the_order(told, random):
    events = [event for _, event in told]
    random.shuffle(events)
    one, now = fold(told)
    other, _ = fold([(step, event) for (step, _), event in zip(told, events, strict=True)])
    mine, theirs = one.figures(now), other.figures(now)
    for name in ("done", "failed", "failures", "clips_per_second"):
        assert getattr(mine, name) == getattr(theirs, name)


def test_rates_and_what_is_left_are_those_of_plain_arithmetic():
    told = [(0, run(1000)), (50, started()), *[(2, unit(committed=8, teach=1.5, size=4000, decode=3.0)) for _ in range(50)]]
    progress, now = fold(told)
    figures = progress.figures(now)
    assert now == 150
    assert figures.clips_per_second == pytest.approx(400 / 100)  # from the teacher's start on, not from the run's
    assert figures.clips_per_second_recent == pytest.approx(4, rel=0.04)
    assert figures.bytes_per_second == pytest.approx(2000, rel=0.04)
    assert figures.eta_seconds == pytest.approx(600 / 4)
    assert figures.busy == pytest.approx(0.75)
    assert figures.busy_recent == pytest.approx(0.75, rel=0.04)
    assert figures.stages == {"decode": pytest.approx(2 / 3), "teach": pytest.approx(1 / 3)}


def test_the_last_minute_shows_a_stall_that_the_whole_run_hides():
    progress, now = fold([(0, run(10000)), (0, started()), *[(1, unit(committed=4)) for _ in range(1000)]])
    figures = progress.figures(now + RECENT_SECONDS + 5)
    assert figures.clips_per_second == pytest.approx(4, rel=0.1)
    assert figures.clips_per_second_recent == 0
    assert figures.eta_seconds == pytest.approx(6000 / 4, rel=0.15)
    # … and after a longer one, the rate of the whole run is all there is to go by.
    assert progress.figures(now + 3600).eta_seconds == pytest.approx(6000 / (4000 / 4600))


def test_a_replaced_teacher_counts_for_as_long_as_it_was_there():
    told = [
        (0, run()), (0, started("a")), (10, unit(teach=10)), (0, lost("a")),
        (100, started("b", devices=2)), (10, unit(teach=10)),
    ]  # fmt: skip
    progress, now = fold(told)
    # 10 s of one device and 10 s of two; the 100 s without a teacher are nobody's idleness.
    assert progress.figures(now).busy == pytest.approx(20 / 30)
    assert fold([*told, (0, lost("b")), (0, lost("b"))])[0].figures(now).teachers == 0


def test_units_that_others_had_done_count_as_done_but_were_not_written_here():
    progress, now = fold([(0, run()), (10, unit(size=1000, already_done=True)), (10, unit(size=500))])
    figures = progress.figures(now)
    assert figures.done == 4
    assert figures.bytes_per_second == pytest.approx(500 / 20)


def test_a_run_that_stops_stays_so_until_it_is_done():
    states = []
    progress = RunProgress(0)
    waiting, stopping = Waiting(teachers=0, detail="a node"), Stopping(reason="SIGTERM", grace_seconds=20)
    for event in (run(), waiting, started(), waiting, unit(), stopping, unit(), waiting, FINISHED, unit()):
        progress = progress.after(event, 1.0)
        states.append(progress.state)
    assert states == [
        "starting", "waiting", "teaching", "waiting", "teaching", "stopping", "stopping", "stopping", "done", "done",
    ]  # fmt: skip


def test_what_is_worth_saying_is_said_once_on_one_line_and_without_credentials():
    progress = RunProgress(0)
    failed = unit(reasons=("not_a_video", "not_a_video", "no_frames"))
    assert progress.notable(failed) == ("first not_a_video: c0: d", "first no_frames: c2: d")
    progress = progress.after(failed, 1)
    assert progress.notable(failed) == ()
    assert progress.notable(unit()) == ()
    dead = TeacherLost(teacher="t", node="n", reason="cannot read\ns3://key:secret/x@bucket/v", units=0)
    assert progress.notable(dead) == ("t on n is lost: cannot read s3://***@bucket/v",)
    for place in range(9):
        progress = progress.after(started(f"t-{place}"), 2.0 + place)
    assert [(item.after_seconds, item.text[:3]) for item in progress.news] == [(7, "t-5"), (8, "t-6"), (9, "t-7"), (10, "t-8")]
