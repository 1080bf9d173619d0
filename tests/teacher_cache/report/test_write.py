"""A report's frames come from a decoder's process, at the report's size."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
import strange_videos
from log_files import with_video_at
from PIL import Image

from schemas.errors import SignalMissing
from teacher_cache import open_cache
from teacher_cache.report.write import write_report

CODE = """
import resource, sys
from pathlib import Path
from teacher_cache.report.write import write_report
def megabytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
for store in sys.argv[2:]:
    before = megabytes()
    write_report(store, ["scene-0.mp4"], Path(sys.argv[1]), videos=["/"])
print(megabytes() - before, *[name for name in ("av", "decord") if name in sys.modules])
"""


def test_a_video_of_giant_pictures_costs_a_report_no_memory(tiny_store: Path, tmp_path: Path) -> None:
    """800 MB each, of 33 KB: the clip is shown without its frames. A page of the sound video tells the usual peak."""
    picture = io.BytesIO()
    Image.new("1", (16384, 16384)).save(picture, "png")
    giant = strange_videos.write_packet(tmp_path / "a.mov", picture.getvalue(), codec="png", pixels="monob", size=(64, 64))
    store = with_video_at(tiny_store, tmp_path / "store", str(giant))
    command = [sys.executable, "-c", CODE, tmp_path / "page.html", tiny_store, store]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 50  # and no video library was loaded


def test_objects_are_shown_with_the_rest_of_their_own_store_or_another(
    tiny_store: Path, regions_store: Path, videos: Path, tmp_path: Path
) -> None:
    alone, joined = tmp_path / "alone.html", tmp_path / "joined.html"
    write_report(str(regions_store), None, alone, videos=[str(videos)])
    write_report(str(tiny_store), ["scene-0.mp4"], joined, videos=[str(videos)], regions=str(regions_store))
    (objects,) = open_cache(str(regions_store)).objects(["scene-0.mp4"])
    for page in (alone.read_text(), joined.read_text()):
        assert 'alt="Objects over the frame"' in page
        assert all(f"{one.number} {one.phrase}" in page for one in objects if one.frames)
        assert "a unicorn (no_box)" in page
    assert 'alt="Depth"' in joined.read_text()
    without = tmp_path / "without.html"
    write_report(str(regions_store), ["scene-0.mp4"], without)
    assert 'alt="Objects over the frame"' in without.read_text()
    with pytest.raises(SignalMissing, match="regions and objects are needed"):
        write_report(str(tiny_store), None, without, regions=str(tiny_store))
