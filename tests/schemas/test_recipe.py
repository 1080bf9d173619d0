from __future__ import annotations

import pytest
from pydantic import ValidationError

from schemas.recipe import ClipRecipe, Layout, Recipe, TeacherIdentity
from schemas.signal import SIGNAL_NAMES


def recipe(**changes: object) -> Recipe:
    teacher = {"family": "l4p", "config": {"depth": 4, "hooks": [1, 2]}, "weights": "sha256:aa", "dtype": "float32"}
    fields: dict[str, object] = {
        "teacher": TeacherIdentity.model_validate(teacher),
        "clips": ClipRecipe(frames=16, sampling="uniform", preprocessing="l4p", size=112, student_size=None),
        "encodings": dict.fromkeys(SIGNAL_NAMES, "float32"),
        "layout": Layout(clips_per_shard=4),
    }
    return Recipe.model_validate(fields | changes)


def test_equal_recipes_have_equal_fingerprints_and_survive_json() -> None:
    assert recipe().fingerprint == recipe().fingerprint
    assert Recipe.model_validate_json(recipe().model_dump_json()) == recipe()
    assert len(recipe().fingerprint) == 64


def test_every_field_is_in_the_fingerprint_and_named_by_differences() -> None:
    other_weights = recipe().teacher.model_copy(update={"weights": "sha256:bb"})
    other_depth = recipe().teacher.model_copy(update={"config": {"depth": 5, "hooks": [1, 2]}})
    other_size = recipe().clips.model_copy(update={"size": 224})
    cases = {
        "teacher.weights": recipe(teacher=other_weights),
        "teacher.config.depth": recipe(teacher=other_depth),
        "clips.size": recipe(clips=other_size),
        "clips.fps": recipe(clips=recipe().clips.model_copy(update={"fps": 2.0})),
        "encodings.depth": recipe(encodings=dict.fromkeys(SIGNAL_NAMES, "float32") | {"depth": "float32-raw"}),
        "layout.clips_per_shard": recipe(layout=Layout(clips_per_shard=8)),
    }
    for path, other in cases.items():
        assert list(recipe().differences(other)) == [path]
        assert other.fingerprint != recipe().fingerprint
    assert recipe().differences(recipe()) == {}


def test_a_recipe_cannot_be_changed_or_hold_unknown_fields() -> None:
    with pytest.raises(ValidationError):
        recipe().layout = Layout()  # type: ignore[misc]
    with pytest.raises(ValidationError):
        recipe(gpus=8)
