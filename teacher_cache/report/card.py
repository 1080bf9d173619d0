"""A store's figures and recipe in; its data card out: Markdown for people, under the YAML that the Hugging Face Hub reads.

It names no place: neither where the store lies, nor any video. Texts of the store are shown as text, never as markup.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence

import yaml

from schemas.recipe import Recipe
from schemas.report import StatsReport
from schemas.signal import SIGNALS
from teacher_cache.encodings.registry import encoding
from teacher_cache.io.console import printable, size
from teacher_cache.io.places import local_path

_TAGS = {
    "f4d": "features",
    "depth": "depth-estimation",
    "flow": "optical-flow",
    "motion": "motion-segmentation",
    "camray": "camera-pose",
    "regions": "video-object-segmentation",
    "objects": "object-detection",
    "frames": "video-frames",
}
_SIZES = {10**power: name for power, name in zip(range(3, 9), ("1K", "10K", "100K", "1M", "10M", "100M"), strict=True)}
_MARKUP = re.compile(r"([\\`*_{}\[\]<>()#+!|~&$])")

_LIMITS = """\
* Every value is what the teacher saw, not the truth. The errors above are of the encoding, against the teacher's own values.
* The values above are of the clips that were looked at, each value counted once; failures, duplicates and errors are of all.
* Depth, and the moments of camera rays, are known up to one scale for each clip. The first frame of flow is invalid.
* The videos are not in here, and their rights are not told. Nor are the teacher's weights, whose licence may bind what is made
  with them.
* Two videos count as one content if what was kept of them is equal: size and ETag, or size and three blocks. Copies that were
  encoded anew are not found.
* A digest finds damage, and is no signature: `teacher-cache verify` compares every object with the log."""


def data_card(report: StatsReport, recipe: Recipe) -> str:
    """The card, as a ``README.md`` of a data set. The licence is left to whoever publishes it."""
    return "\n\n".join(_parts(report, recipe)) + "\n"


def store_name(url: str) -> str:
    """The last part of a store's path: all that may be told of where it lies."""
    local = local_path(url)
    return local.resolve().name if local else url.rstrip("/").rpartition("/")[2]


def _parts(report: StatsReport, recipe: Recipe) -> Iterator[str]:
    name, teacher, clips = store_name(report.store), recipe.teacher, recipe.clips
    yield f"---\n{_front_matter(name, report)}# license: say it here, such as cc-by-nc-4.0\n---"
    yield f"# {_text(name)}"
    yield (
        f"What a frozen 4D teacher, {_text(teacher.family)}, saw in {report.clips.committed:,} clips of "
        f"{report.videos:,} videos: targets to distil video models from. A Zarr v3 group, written by p4d-cache, at version "
        f"{report.version} of its history."
    )
    yield "## Signals"
    rows = (
        (
            signal,
            _text(SIGNALS[signal].meaning),
            f"{_axes(of.dims, of.shape)}, {SIGNALS[signal].dtype}",
            _text(of.units),
            size(of.bytes),
        )
        for signal, of in report.signals.items()
    )
    yield _table(("signal", "meaning", "one clip", "units", "stored"), rows)
    yield "A clip that failed has a reason and no values. `timestamps` and `frame_index` say when each frame is shown."
    yield "## Clips"
    counts = report.clips
    facts = [("committed", f"{counts.committed:,}"), ("failed", f"{counts.failed:,}"), ("pending", f"{counts.pending:,}")]
    facts += [
        (f"failed for {_text(reason)}", f"{count:,} ({count / counts.planned:.2%})") for reason, count in report.failed.items()
    ]
    facts += [("videos", f"{report.videos:,}"), ("videos with the content of another", f"{report.repeated.videos:,}")]
    yield _table(("", ""), facts)
    yield "## Teacher and recipe"
    yield (
        f"Weights `{_code(teacher.weights)}`, {teacher.dtype}. Frames: {clips.frames} a clip, {clips.sampling}, {clips.size} "
        f"pixels. The fingerprint `{report.fingerprint}` is of all that a value depends on:"
    )
    # JSON escapes what a terminal or a page might obey, and none of its lines can begin with the fence.
    yield f"```json\n{json.dumps(recipe.model_dump(mode='json'), indent=1)}\n```"
    yield "## Errors of the encoding"
    headings = (
        "signal",
        "encoding",
        "bound",
        "measured",
        "worst",
        "median",
        "near the bound",
        "relative RMS",
        "stored exactly",
    )
    yield _table(headings, _error_rows(report))
    yield from _values(report)
    yield "## Open it"
    yield (
        "```python\nfrom teacher_cache import open_cache\n\n"
        'cache = open_cache("hf://datasets/USER/NAME/PATH")  # or a copy on a disk\n'
        f"batch = cache.read({json.dumps(list(report.signals))}, cache.committed_ids()[:8])\n```"
    )
    yield (
        'Any Zarr v3 reader opens it as well, such as `xarray.open_zarr("PATH", consolidated=False)`; there depth is its '
        "natural logarithm, and rows without a clip are NaN."
    )
    yield f"## What this does not say\n\n{_LIMITS}"


def _front_matter(name: str, report: StatsReport) -> str:
    tags = ["video", "distillation", "zarr", *(_TAGS[signal] for signal in report.signals)]
    # Without `viewer`, the Hub would take the log's Parquet files for the data.
    about = {"pretty_name": printable(name), "tags": tags, "size_categories": [_size_category(report.clips.committed)]}
    return yaml.safe_dump(about | {"viewer": False}, sort_keys=False)


def _size_category(clips: int) -> str:
    """As the Hub names them: ``n<1K``, ``1K<n<10K``, …."""
    if clips < 1000:
        return "n<1K"
    least = max(count for count in _SIZES if count <= clips)
    return f"{_SIZES[least]}<n<{_SIZES[10 * least]}" if 10 * least in _SIZES else f"n>{_SIZES[least]}"


def _error_rows(report: StatsReport) -> Iterator[Sequence[str]]:
    for signal, of in report.signals.items():
        bound = encoding(signal, of.encoding).statement
        for error in of.errors:
            figures = (f"{error.worst:.3g} of {error.bound:.3g}", f"{error.median:.3g}", f"{error.near_bound:.1%}")
            rest = (f"{error.relative_rms:.2g}", f"{of.stored_exactly:,}")
            yield (signal, _text(of.encoding), _text(bound), _text(error.measure), *figures, *rest)


def _values(report: StatsReport) -> Iterator[str]:
    sample = report.sample
    if not sample.clips:
        return
    yield "## Values"
    chosen = "all" if sample.clips == sample.of else f"{sample.clips:,} of the {sample.of:,} (seed {sample.seed})"
    yield f"Of {chosen} committed clips."
    rows = (
        (signal, _text(value.name), *(f"{number:.4g}" for number in (value.mean, value.std, value.least, value.most)))
        for signal, of in report.signals.items()
        for value in of.values
    )
    yield _table(("signal", "channel", "mean", "std", "least", "most"), rows)
    layers = [
        (
            signal,
            _text(layer.name),
            f"{layer.channels:,}",
            *(f"{spread.least:.3g} to {spread.most:.3g}" for spread in (layer.means, layer.rms)),
            ", ".join(f"{one.channel} ({one.rms:.3g})" for one in layer.largest) or "none",
        )
        for signal, of in report.signals.items()
        for layer in of.channels
    ]
    if layers:
        yield _table(("signal", "layer", "channels", "their means", "their RMS", "those over ten times the median RMS"), layers)


def _axes(dims: Sequence[str], shape: Sequence[int]) -> str:
    return ", ".join(f"{_text(dim)} {length}" for dim, length in zip(dims, shape, strict=True))


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(text: str) -> str:
    """The text, of which Markdown takes nothing for markup."""
    return _MARKUP.sub(r"\\\1", printable(text))


def _code(text: str) -> str:
    """The text in a code span, which nothing in it ends."""
    return printable(text).replace("`", "'")
