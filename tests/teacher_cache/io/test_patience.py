"""Patience is with a silence, not with an operation: whatever is answered in it begins the wait anew."""

from __future__ import annotations

import time

import pytest

from schemas.errors import Unreachable
from teacher_cache.io import patience
from teacher_cache.io.patience import PATIENCE_VARIABLE, NotNow, Patience, expect
from teacher_cache.io.remote import reach

URL = "http://videos.example"
LIMIT, LONGER = 0.2, 0.25


@pytest.fixture(autouse=True)
def _known_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that has answered, and may be silent for `LIMIT` seconds."""
    monkeypatch.setenv(PATIENCE_VARIABLE, str(LIMIT))
    monkeypatch.setattr(patience, "_answering", set())
    expect(URL)


def fails(one: Patience, tries: int = 3) -> bool:
    """Whether a request that fails now, for the so-manieth time, is to be sent again."""
    return one.wait_seconds(tries, "503 SlowDown", 503) is not None


def test_an_answer_renews_it() -> None:
    one = Patience(URL)
    for _ in range(3):
        assert fails(one)
        time.sleep(LONGER)
        one.answered()
    assert fails(one)
    time.sleep(LONGER)
    assert not fails(one)


def test_once_spent_it_stays_spent() -> None:
    """The other requests of the operation give up too, however few their own tries were."""
    one = Patience(URL)
    assert fails(one)
    time.sleep(LONGER)
    assert fails(one, tries=2)  # each is tried three times
    assert not fails(one)
    assert not fails(one, tries=1)


def test_each_operation_has_its_own() -> None:
    def never() -> None:
        raise NotNow("away", 503)

    began = time.monotonic()
    for _ in range(2):
        with pytest.raises(Unreachable, match="away"):
            reach(URL, never)
    assert time.monotonic() - began > 2 * LIMIT
