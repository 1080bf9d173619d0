"""A family's name in, the teacher family out, found among the installed packages' entry points."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import cast

from schemas.errors import BadInput, CouldNotRun
from schemas.job import TeacherJob
from schemas.recipe import TeacherIdentity
from teacher_cache.teachers.protocol import Teacher, TeacherFamily

GROUP = "teacher_cache.teachers"


def families() -> dict[str, EntryPoint]:
    """Name → entry point of every installed teacher family, not yet imported."""
    return {entry.name: entry for entry in sorted(entry_points(group=GROUP))}


def family(name: str) -> TeacherFamily:
    """The family of that name. Raises `BadInput` for an unknown name, `CouldNotRun` if the family cannot be imported."""
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


def loaded(job: TeacherJob, device: str) -> Teacher:
    """The job's teacher on a device, in a process that computes float32 as such; raises what `TeacherFamily.load` does.

    PyTorch's settings for that hold for the whole process, and stay: see `teacher_cache.teachers.heads.precision.full_float32`.
    """
    from teacher_cache.teachers.heads.precision import full_float32  # noqa: PLC0415  # torch, which planning does not need

    full_float32()
    return family(job.family).load(job, device)


def job_for(identity: TeacherIdentity, weights: str | None) -> TeacherJob:
    """The teacher settings that load the teacher of that identity, from ``weights`` if it needs any.

    Raises `BadInput` if no preset of the family matches, with the reason for each.
    """
    known = family(identity.family)
    reasons = []
    for preset in known.presets:
        job = TeacherJob(
            family=identity.family,
            preset=preset,
            weights=weights,
            dtype=identity.dtype,
            options=identity.config.get("options", {}),
        )
        try:
            found = known.identify(job).identity
        except BadInput as error:
            reasons.append(str(error))
            continue
        if found == identity:
            return job
        reasons.append(f"the preset {preset!r} has the weights {found.weights}")
    raise BadInput(
        f"the store's teacher is {identity.family} with the weights {identity.weights}; none found here matches:\n  "
        + "\n  ".join(reasons)
        + "\nGive the file with those weights as --weights."
    )
