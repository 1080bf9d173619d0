"""Names of distributions and a folder in; as JSON, what does not work in a process that finds no others, out.

That is: every module of the image's packages is imported, and each family of teachers loads. The folder is for tiny weights.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import sys
from importlib.machinery import PathFinder
from importlib.metadata import packages_distributions
from pathlib import Path

PHRASES = {"grounded-sam": "write_models", "sam3": "write_sam3"}
"""Family of models that are not there → what writes tiny ones."""


def find_only(distributions):
    """From here on, installed packages of other distributions are not there."""
    of_others = {name for name, of in packages_distributions().items() if distributions.isdisjoint(map(_canonical, of))}

    class Only(PathFinder):
        @classmethod
        def find_spec(cls, name, path=None, target=None):
            if path is None and name in of_others:  # Ray has copies of some, in a folder of its own
                path = [folder for folder in sys.path if not folder.endswith("-packages")]
            return PathFinder.find_spec(name, path, target)

    sys.meta_path[sys.meta_path.index(PathFinder)] = Only


def _canonical(name):
    return name.lower().replace("_", "-").replace(".", "-")


def modules():
    for package in ("schemas", "teacher_cache", "cluster"):
        for module in pkgutil.walk_packages([package], f"{package}."):
            yield module.name


def load(name, folder):
    """Load the family's teacher; one that takes phrases also finds what one names, with what it loads only then."""
    import tiny_grounding
    import torch

    from schemas.job import TeacherJob
    from teacher_cache.teachers.registry import family

    of = family(name)
    preset = "tiny" if "tiny" in of.presets else "px112"
    if name not in PHRASES:
        of.load(TeacherJob(family=name, preset=preset), "cpu")
        return
    weights = getattr(tiny_grounding, PHRASES[name])(folder / name)
    options = {"frames": 2, "objects": 1}
    teacher = of.load(TeacherJob(family=name, preset=preset, weights=str(weights), options=options), "cpu")
    teacher.raw(torch.zeros((1, 2, 112, 112, 3), dtype=torch.uint8), ["regions", "objects"], [("a cup",)])


def failures(names, do):
    found = {}
    for name in names:
        try:
            do(name)
        except Exception as error:  # noqa: BLE001  # whatever it is, the test is told
            found[name] = repr(error)
    return found


if __name__ == "__main__":
    find_only(set(json.loads(sys.argv[1])))
    from teacher_cache.teachers.registry import families

    wrong = failures(modules(), importlib.import_module) | failures(families(), lambda name: load(name, Path(sys.argv[2])))
    sys.stdout.write(json.dumps({"families": sorted(families()), "wrong": wrong}))
