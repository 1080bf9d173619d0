"""A family's name in, the family out: teachers are found among the installed packages' entry points."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import cast

from schemas.errors import BadInput, CouldNotRun
from schemas.job import TeacherJob
from schemas.recipe import TeacherIdentity
from teacher_cache.teachers.protocol import TeacherFamily

GROUP = "teacher_cache.teachers"


def families() -> dict[str, EntryPoint]:
    """Every teacher family that an installed package offers, not yet imported."""
    return {entry.name: entry for entry in sorted(entry_points(group=GROUP))}


def family(name: str) -> TeacherFamily:
    """The family of that name.

    Raises BadInput for an unknown name, CouldNotRun where the family's own requirements are not installed.
    """
    known = families()
    if name not in known:
        raise BadInput(
            f"no teacher family is called {name!r}; installed here: {', '.join(known) or 'none'}. "
            f"Give one of these as `teacher.family`, or install a package with an entry point {name!r} in {GROUP!r}."
        )
    try:
        return cast("TeacherFamily", known[name].load())
    except (ImportError, AttributeError) as error:
        raise CouldNotRun(
            f"the teacher family {name!r} cannot be loaded: {error}. Install the package that it needs, or reinstall its own."
        ) from error


def job_for(identity: TeacherIdentity, weights: str | None) -> TeacherJob:
    """The job that loads the teacher of that identity, from ``weights`` if it needs any. Raises BadInput where none does."""
    known = family(identity.family)
    reasons = []
    for preset in known.presets:
        job = TeacherJob(family=identity.family, preset=preset, weights=weights, dtype=identity.dtype)
        try:
            found = known.identify(job).identity
        except BadInput as error:
            reasons.append(str(error))
            continue
        if found == identity:
            return job
        reasons.append(f"the preset {preset!r} has the weights {found.weights}")
    raise BadInput(
        f"the teacher here is {identity.family} with the weights {identity.weights}, and nothing found is that:\n  "
        + "\n  ".join(reasons)
        + "\nGive the file of those weights with --weights."
    )
