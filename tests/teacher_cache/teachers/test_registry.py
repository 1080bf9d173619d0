"""Families are found by name among installed packages, also those of other packages."""

from __future__ import annotations

import pytest

from schemas.errors import BadInput, CouldNotRun
from teacher_cache.teachers.l4p.teacher import FAMILY
from teacher_cache.teachers.registry import families, family


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts a package with a teacher entry point on the path, as an installer would."""

    def put(name: str, module: str, source: str) -> None:
        (tmp_path / f"{module}.py").write_text(source)
        info = tmp_path / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[teacher_cache.teachers]\n{name} = {module}:FAMILY\n")
        monkeypatch.syspath_prepend(tmp_path)

    return put


def test_l4p_is_installed():
    assert "l4p" in families()
    assert family("l4p") is FAMILY


def test_another_package_can_bring_a_family(install):
    install("other", "other_teacher_for_test", "FAMILY = 'stands for a family'")
    assert family("other") == "stands for a family"


def test_an_unknown_family_is_refused_with_the_known_ones():
    with pytest.raises(BadInput, match=r"no teacher family is called 'l4q'; installed here: .*l4p"):
        family("l4q")


def test_a_family_whose_package_is_absent_says_so(install):
    install("broken", "broken_teacher_for_test", "import a_package_that_is_not_installed")
    with pytest.raises(CouldNotRun, match="'broken' cannot be loaded: No module named 'a_package_that_is_not_installed'"):
        family("broken")
