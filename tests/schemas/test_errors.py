from __future__ import annotations

import pickle

import pytest

from schemas.errors import BadInput, CacheError, ClipFailed, RecipeMismatch, UnknownClip, VideoError


@pytest.mark.parametrize(
    "error",
    [
        BadInput("a file is missing"),
        RecipeMismatch("s3://b/s", {"teacher.weights": ("old", "new")}),
        UnknownClip("no clip 'x'"),
        ClipFailed("clip", "not_a_video", "text", "store"),
        VideoError("no_frames", "none"),
    ],
)
def test_errors_cross_processes_whole(error: CacheError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


def test_a_mismatch_names_the_field_and_both_values() -> None:
    assert "teacher.weights: store has 'old', job asks for 'new'" in str(
        RecipeMismatch("s", {"teacher.weights": ("old", "new")})
    )
