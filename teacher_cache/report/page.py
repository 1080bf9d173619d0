"""A store's summary and its clips' frames and signals in; one self-contained HTML page that plays them out.

All external text (names, reasons, details) passes through `text.escape`. The page's content security policy allows only its own
script, by digest, so that an unescaped string could still not run.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from teacher_cache.report.assets import SCRIPT, STYLE
from teacher_cache.report.chart import line_chart_svg
from teacher_cache.report.panels import ClipPanel, clip_panels
from teacher_cache.report.text import escape

__all__ = ["ClipPanel", "line_chart_svg", "render_page"]

_ICONS = (
    '<svg class="go" viewBox="0 0 16 16" aria-hidden="true"><path d="M4 2v12l10.5-6z"/></svg>'
    '<svg class="pause" viewBox="0 0 16 16" aria-hidden="true"><path d="M3.5 2h3v12h-3zM9.5 2h3v12h-3z"/></svg>'
)

_GUIDE = {
    "Depth": "Distance along the optical axis, known up to one scale per clip. One colour scale serves all frames of a clip.",
    "Backward flow": "For each pixel of frame t, the way back to where its point was in frame t − 1: "
    "hue is direction, strength is length.",
    "Motion": "Probability that the pixel belongs to an object that moves in the world, whatever the camera does.",
    "Regions": "The objects that the clip's phrases name, or those of truth masks: each has one colour and number in all "
    "frames, also after it was hidden.",
    "Camera rays": "Plücker rays in the frame of the clip's first camera. Direction d: red right, green down, blue forward. "
    "Moment m = o × d: grey is zero, and the camera's centre o follows from it.",
    "F4D latents": "The teacher's features, as the first three principal components of each layer over the whole clip. "
    "Like colours are like features; colours do not compare between layers.",
}


def render_page(
    title: str, store_summary: Mapping[str, object], clips: Iterable[ClipPanel], extra_sections: Sequence[str] = ()
) -> str:
    """The whole page as a string, to be written as UTF-8.

    ``store_summary`` maps labels to values, shown in order under the title. ``clips`` is consumed one at a time, so only one
    clip's arrays are in memory; each adds about 0.6 MB for 16 frames of 224 × 224. ``extra_sections`` are trusted HTML, such as
    the output of `line_chart_svg`, each shown in a card before the clips.
    """
    cards = [_card(clip) for clip in clips]
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n"
        f'<body><main class="page"><h1><bdi>{escape(title)}</bdi></h1>{_summary(store_summary)}{_guide()}'
        f"{''.join(_section(s) for s in extra_sections)}{_bar(cards)}{''.join(c.html for c in cards)}</main>\n"
        f"<script>{SCRIPT}</script></body></html>\n"
    )


@dataclass(frozen=True)
class _Card:
    html: str
    status: str
    plays: bool


def _summary(summary: Mapping[str, object]) -> str:
    rows = "".join(f"<div><dt>{escape(k)}</dt><dd><bdi>{escape(v)}</bdi></dd></div>" for k, v in summary.items())
    return f'<dl class="facts">{rows}</dl>' if rows else ""


def _guide() -> str:
    rows = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>" for name, text in _GUIDE.items())
    return f'<details class="guide"><summary>How to read the panels</summary><dl>{rows}</dl></details>'


def _bar(cards: Sequence[_Card]) -> str:
    counts = {status: sum(c.status == status for c in cards) for status in dict.fromkeys(c.status for c in cards)}
    text = ", ".join(f"{n} {status}" for status, n in counts.items()) or "none to show"
    button = '<button type="button" class="all">Play all</button>' if any(c.plays for c in cards) else ""
    return f'<div class="bar"><div><h2>Clips</h2><p>{escape(text)}</p></div>{button}</div>'


def _card(clip: ClipPanel) -> _Card:
    total = clip.num_frames
    # A frame in the middle shows all signals; the first has no flow.
    shown = total // 2
    plays = total > 0
    body = f"{_controls(clip, total, shown)}{clip_panels(clip, shown)}" if plays else ""
    html = (
        f'<article class="card"{_clock_data(clip, total) if plays else ""} data-clip="{escape(clip.clip_id)}">'
        f'<header><div><h3><bdi title="{escape(clip.video)}">{escape(_file_name(clip.video))}</bdi></h3>'
        f'<div class="id">{escape(clip.clip_id)}</div></div>'
        f'<span class="status {escape(clip.status)}">{escape(clip.status)}</span></header>{_failure(clip)}{body}</article>\n'
    )
    return _Card(html, clip.status, plays)


def _failure(clip: ClipPanel) -> str:
    if clip.reason is None and clip.detail is None:
        return ""
    reason = f"<dt>Reason</dt><dd><code>{escape(clip.reason)}</code></dd>" if clip.reason is not None else ""
    detail = f"<dt>Detail</dt><dd><bdi>{escape(clip.detail)}</bdi></dd>" if clip.detail is not None else ""
    return f'<dl class="why">{reason}{detail}<dt>Video</dt><dd><bdi>{escape(clip.video)}</bdi></dd></dl>'


def _controls(clip: ClipPanel, total: int, shown: int) -> str:
    return (
        f'<div class="controls"><button type="button" class="play" aria-pressed="false" aria-label="Play">{_ICONS}</button>'
        f'<input type="range" min="0" max="{total - 1}" step="1" value="{shown}" aria-label="Frame of {escape(clip.clip_id)}">'
        '<div class="clock"></div></div>'
    )


def _clock_data(clip: ClipPanel, total: int) -> str:
    times = json.dumps([round(float(t), 6) for t in clip.timestamps_seconds])
    sources = json.dumps([int(i) for i in clip.frame_index])
    return f' data-frames="{total}" data-times="{escape(times)}" data-sources="{escape(sources)}"'


def _section(html: str) -> str:
    return f'<section class="card section">{html}</section>\n'


def _file_name(uri: str) -> str:
    return uri.rstrip("/").rsplit("/", 1)[-1] or uri
