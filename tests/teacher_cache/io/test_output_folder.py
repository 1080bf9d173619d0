"""A folder says what its things were made with, and takes no others."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.errors import BadInput
from teacher_cache.io.output_folder import claim_folder, require_writable, written_whole


def test_a_folder_is_claimed_once_and_by_equals_again(tmp_path: Path) -> None:
    for _ in range(2):
        claim_folder(tmp_path / "new", {"size": 4, "grid": [2, 2]})


def test_other_settings_are_refused_by_what_differs(tmp_path: Path) -> None:
    claim_folder(tmp_path, {"size": 4, "frames": 16})
    before = sorted(tmp_path.iterdir())
    with pytest.raises(BadInput, match=r"was made with frames 16, not 8, grid None, not 2 \(.*settings.json\); give another"):
        claim_folder(tmp_path, {"size": 4, "frames": 8, "grid": 2})
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("text", ["{", "[1]", "\xff"])
def test_a_damaged_note_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "settings.json").write_text(text, encoding="latin-1")
    with pytest.raises(BadInput, match=r"settings\.json is damaged; give another folder"):
        claim_folder(tmp_path, {"size": 4})


def test_a_place_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match=r"cannot use .*: Not a directory; give another folder"):
        claim_folder(tmp_path / "file" / "below", {"size": 4})


def test_what_is_half_written_is_gone_and_what_was_there_stays(tmp_path: Path) -> None:
    def write() -> None:
        with written_whole(tmp_path / "file") as draft:
            draft.write_text("half")
            raise BadInput("its own")

    (tmp_path / "file").write_text("before")
    with pytest.raises(BadInput, match="its own"):
        write()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "before")]


def test_a_file_that_cannot_be_written_is_told_before_the_work(tmp_path: Path) -> None:
    require_writable(tmp_path / "new" / "file")
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "file").touch()
    for path, said in ((tmp_path / "file" / "below", "File exists|Not a directory"), (tmp_path / "new", "Is a directory")):
        with pytest.raises(BadInput, match=f"cannot write {path}: ({said}); give another --out"):
            require_writable(path)
