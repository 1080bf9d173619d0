"""The page: what it holds, what it must never hold, and how it behaves in a real browser."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from teacher_cache.report.chart import line_chart_svg
from teacher_cache.report.page import render_page
from teacher_cache.report.panels import ClipPanel
from teacher_cache.report.text import escape
from teacher_cache.scenes import frame_times, random_scene, render_scene

HOSTILE = [
    "<script>document.documentElement.dataset.pwned=1</script>",
    '"><img src=x onerror="document.documentElement.dataset.pwned=1">.mp4',
    "' onmouseover='alert(1)' x='.mp4",
    "</title></style></script><svg onload=alert(1)>",
    "&lt;b&gt; &amp;",
    "видео 動画 🎬 \u0301.mp4",
    "\u202egpj.exe",
    "null\x00bell\x07escape\x1b[31m.mp4",
    b"bytes\xff\xfe.mp4".decode("utf-8", "surrogateescape"),
]


@pytest.fixture(scope="module")
def clip():
    truth = render_scene(random_scene(1), frame_times(8, 4), height=56, width=56)
    rng = np.random.default_rng(0)
    signals = {
        "depth": truth.depth,
        "flow": truth.flow,
        "motion": np.where(truth.motion, 5, -5).astype(np.float32),
        "camray": truth.camray,
        "f4d": rng.normal(size=(4, 4, 4, 4, 16)).astype(np.float32),
    }
    return ClipPanel(
        clip_id="clip-1",
        video="videos/scene-1.mp4",
        status="committed",
        frames=truth.rgb,
        timestamps_seconds=tuple(truth.times_seconds),
        frame_index=tuple(range(0, 16, 2)),
        signals=signals,
        f4d_layers=(14, 21, 28, 36),
    )


def failed(video, detail="broken"):
    return ClipPanel(clip_id=video, video=video, status="failed", reason="decode_error", detail=detail)


def test_a_page_is_one_file(clip):
    page = render_page("Store", {"Clips": 1}, [clip])
    assert page.startswith("<!doctype html>")
    assert set(re.findall(r'(?:src|href)="([^"]{0,11})', page)) <= {"data:image/", "data:,"}
    assert "@import" not in page
    assert "url(" not in page


def test_a_page_shows_every_signal_with_its_scale(clip):
    page = render_page("Store", {"Clips": 1, "Teacher": "l4p"}, [clip])
    for text in ("Depth", "Backward flow", "Motion", "Camera rays", "F4D latents", "block 36", "log scale", "committed", "l4p"):
        assert text in page
    assert page.count('class="tile') == 10  # frame, depth, flow, motion, two of rays, four layers
    assert 'data-times="[0.0, 0.25' in page
    assert 'data-sources="[0, 2' in page


def test_a_clip_in_which_nothing_was_found_says_so(clip):
    page = render_page("Store", {}, [replace(clip, signals=clip.signals | {"regions": np.zeros((8, 56, 56), np.uint8)})])
    assert '<div class="objects">no object</div>' in page


@pytest.mark.parametrize("missing", ["depth", "flow", "motion", "camray", "f4d"])
def test_any_signal_may_be_absent(clip, missing):
    signals = {name: value for name, value in clip.signals.items() if name != missing}
    page = render_page("Store", {}, [replace(clip, signals=signals)])
    assert page.count("not in this store") == 1
    assert f'<p class="missing">not in this store: {missing}</p>' in page
    assert page.count("<figure>") == 5  # the frames, and each of the others


def test_regions_alone_have_their_panel_and_no_empty_ones(clip):
    page = render_page("Store", {}, [replace(clip, signals={"regions": np.ones((8, 56, 56), np.uint8)})])
    assert re.findall("<h4>(.*?)</h4>", page) == ["Frame", "Regions"]
    assert "not in this store: f4d, depth, flow, motion, camray" in page


def test_signals_are_shown_where_the_video_cannot_be_read(clip):
    page = render_page("Store", {}, [replace(clip, frames=None)])
    assert "the video cannot be read" in page
    assert page.count('class="tile') == 9


@pytest.mark.parametrize("name", ["f4d", "camray", "flow"])
def test_one_signal_alone_plays(clip, name):
    page = render_page("Store", {}, [replace(clip, frames=None, signals={name: clip.signals[name]}, timestamps_seconds=())])
    assert f'data-frames="{4 if name == "f4d" else 8}"' in page


def test_failed_and_pending_clips_say_why():
    pending = ClipPanel(clip_id="later", video="b.mp4", status="pending")
    page = render_page("Store", {}, [failed("a.mp4", "packet 3\nis broken"), pending])
    assert "<code>decode_error</code>" in page
    assert "packet 3\nis broken" in page
    assert "1 failed, 1 pending" in page
    assert 'class="all"' not in page  # nothing to play


def test_a_clip_with_nan_everywhere_is_still_drawn(clip):
    signals = {name: np.full_like(value, np.nan) for name, value in clip.signals.items()}
    page = render_page("Store", {}, [replace(clip, signals=signals)])
    assert page.count('class="tile') == 10


def test_larger_video_frames_set_the_shape_of_all_pictures(clip):
    frames = np.zeros((8, 90, 160, 3), np.uint8)
    assert "--aspect:1.7778" in render_page("Store", {}, [replace(clip, frames=frames)])


def test_clips_are_consumed_one_at_a_time(clip):
    given = []

    def clips():
        for number in range(3):
            given.append(number)
            yield replace(clip, clip_id=f"clip-{number}")

    page = render_page("Store", {}, clips())
    assert given == [0, 1, 2]
    assert page.index("clip-0") < page.index("clip-1") < page.index("clip-2")


def test_equal_input_gives_equal_bytes(clip):
    assert render_page("Store", {"a": 1}, [clip]) == render_page("Store", {"a": 1}, [clip])


def test_eight_clips_at_full_size_fit_in_six_megabytes():
    truth = render_scene(random_scene(4), frame_times(16, 8), height=224, width=224)
    signals = {"depth": truth.depth, "flow": truth.flow, "motion": np.where(truth.motion, 5.0, -5.0), "camray": truth.camray}
    latents = np.random.default_rng(0).normal(size=(4, 8, 16, 16, 32)).astype(np.float32)
    whole = ClipPanel("c", "v.mp4", "committed", frames=truth.rgb, signals={**signals, "f4d": latents})
    assert 8 * len(render_page("Store", {}, [whole])) < 6e6


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_text(name):
    page = render_page(name, {name: name}, [failed(name, name)])
    page.encode("utf-8")
    ordinary = render_page("name", {"name": "name"}, [failed("name", "name")])
    # Hostile names add no element: the page has exactly the tags of the same page with plain names.
    assert re.findall(r"<[a-z/!][^\s>]*", page) == re.findall(r"<[a-z/!][^\s>]*", ordinary)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\ud800-\udfff\u202a-\u202e]", page)


def test_escape_shows_what_it_hides():
    assert escape("a\x00b\u202ec\udcff") == "a\\x00b\\u202ec\\udcff"
    assert escape("<\"'&>") == "&lt;&quot;&#x27;&amp;&gt;"
    assert escape("тест 🎬") == "тест 🎬"


def test_page_and_scenes_load_no_store_teacher_or_engine():
    heavy = ("torch", "ray", "zarr", "s3fs", "av", "decord", "transformers", "teacher_cache.store", "teacher_cache.teachers")
    code = f"import sys, teacher_cache.report.page, teacher_cache.scenes; print([m for m in {heavy!r} if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "[]"


# --- in a real browser ---


def test_script_runs_in_chromium_and_hostile_names_do_not(clip, dump_dom):
    attack = "<p>trusted</p><script>document.documentElement.dataset.pwned=1</script>"
    clips = [clip, *(failed(name, name) for name in HOSTILE)]
    dom = dump_dom(render_page(HOSTILE[0], {HOSTILE[1]: HOSTILE[0]}, clips, [attack]))
    assert 'data-players="1"' in dom
    assert 'data-shown="4"' in dom
    assert "source frame <b>8</b>" in dom
    # Not even a script that reached the page unescaped can run: the policy allows the page's own alone.
    assert "data-pwned" not in dom.split(">", 2)[1]


def test_slider_and_play_move_all_panels_together(clip, dump_dom):
    page = render_page("Store", {}, [clip], [line_chart_svg({"a": [(0, 1), (1, 2)]}, "t", "x", "y")])
    driver = """<script>
      const card = document.querySelector('.card[data-frames]'), slider = card.querySelector('input'), log = [];
      const state = () => [card.dataset.shown, card.querySelector('.cone.on').dataset.frame,
        ...[...card.querySelectorAll('.tile img')].map((i) => i.style.transform)].join('|');
      slider.value = 3; slider.dispatchEvent(new Event('input')); log.push(state());
      slider.value = 0; slider.dispatchEvent(new Event('input')); log.push(card.querySelector('.void').className);
      card.querySelector('.play').click();
      setTimeout(() => { log.push(card.dataset.shown, card.querySelector('.play').getAttribute('aria-label'));
        document.documentElement.dataset.log = JSON.stringify(log); }, 800);
    </script></body>"""
    without_policy = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    dom = dump_dom(without_policy.replace("</body>", driver))
    log = re.search(r'data-log="\[(.*?)\]"', dom).group(1).replace("&quot;", '"')
    state, void, shown, label = re.findall(r'"(.*?)"', log)
    number, cone, *moves = state.split("|")
    assert (number, cone) == ("3", "3")
    dense, coarse = "translate(-37.5%, 0%)", "translate(-25%, 0%)"  # tile 3 of 8; the latents' step 1 of 4
    assert moves == [dense] * 6 + [coarse] * 4
    assert void == "void on"  # the first frame has no flow
    assert int(shown) in {2, 3}  # 0.8 s at the clip's four frames a second
    assert label == "Pause"
