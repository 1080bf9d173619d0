"""A store's clip in; a Rerun recording (https://rerun.io) of its cameras, pictures and surface in 3-D out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from schemas.errors import BadInput
from schemas.storage import StorageOptions
from teacher_cache.clips.decoder import DECODE_TIMEOUT_SECONDS, Decoder
from teacher_cache.geometry.rays import camera_centres, camera_rotations, pinhole_intrinsics, rays_on_grid
from teacher_cache.geometry.stitch import surface_points
from teacher_cache.io.places import Roots
from teacher_cache.reader.cache import open_cache
from teacher_cache.regions.marks import color_of
from teacher_cache.report import colors
from teacher_cache.report.sprites import resize_frames
from teacher_cache.report.write import VIDEOS_OPTION, clip_panel, known_rows, opened_regions

if TYPE_CHECKING:
    import numpy.typing as npt

    from teacher_cache.report.panels import ClipPanel

_POINT_SHARE = 0.5
"""Radius of a point, relative to the distance between neighbouring points at the median depth."""


def write_recording(
    url: str,
    clip_id: str | None,
    out: Path,
    storage_options: StorageOptions | None = None,
    videos: Sequence[str] = (),
    *,
    regions: str | None = None,
) -> str:
    """Write one committed clip, or the store's first if ``clip_id`` is None. Returns its id.

    ``videos``, ``regions``: as in `teacher_cache.report.write.write_report`; without the clip's video, its depth is shown in
    place of frames.

    Lengths are in the scale of the teacher's depth; x is right, y down, z forward, in the first camera's coordinates.

    Raises `UnknownClip`, and `BadInput` if the clip or store has nothing to show in 3-D, if ``out`` cannot be written, or if
    rerun-sdk is not installed.
    """
    cache = open_cache(url, storage_options=storage_options)
    if absent := [signal for signal in ("depth", "camray") if signal not in cache.signals]:
        raise BadInput(f"a scene in 3-D needs depth and camray, and the store {url} has no {' and no '.join(absent)}")
    rows = known_rows(cache, None if clip_id is None else [clip_id])
    row = next((row for row in rows if row["status"] == "committed"), None)
    if row is None:
        raise BadInput(
            f"the store {url} has no committed clip to show" if clip_id is None else f"clip {clip_id!r} is not committed"
        )
    with Decoder(None, DECODE_TIMEOUT_SECONDS) as decoder:
        of_regions = opened_regions(cache, regions, storage_options)
        clip = clip_panel(cache, row, decoder, Roots(tuple(videos), VIDEOS_OPTION), of_regions)
    stream = _stream(out, clip.clip_id)
    try:
        _Scene(clip).log_to(stream)
    finally:
        stream.flush()
        stream.disconnect()
    return clip.clip_id


def _stream(out: Path, name: str) -> Any:
    try:
        import rerun  # noqa: PLC0415  # an extra
    except ImportError:
        raise BadInput(f"{out} would be a Rerun recording, which needs `pip install 'p4d-cache[rerun]'`") from None
    stream = rerun.RecordingStream("teacher-cache", recording_id=name)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.touch()  # Rerun's writer would only log a failure
        stream.save(out)
    except (OSError, RuntimeError) as error:
        raise BadInput(f"cannot write {out}: {error}") from None
    return stream


class _Scene:
    """One clip's geometry, and how it is logged to Rerun."""

    def __init__(self, clip: ClipPanel) -> None:
        depth, rays = clip.signals["depth"], clip.signals["camray"]
        frames, height, width = depth.shape
        try:
            self.intrinsics = pinhole_intrinsics(rays[0])
        except ValueError as error:
            raise BadInput(f"clip {clip.clip_id!r} shows no camera: {error}") from None
        self.clip = clip
        self.rotations, self.centres = camera_rotations(rays, self.intrinsics), camera_centres(rays)
        self.points = surface_points(depth, rays_on_grid(rays, height, width)).reshape(frames, -1, 3)
        pictures = clip.frames
        if pictures is None:
            pictures = colors.depth_to_rgb(depth, colors.depth_scale(depth))
        self.pictures = resize_frames(pictures, height, width)
        self.maps = self._maps()
        self.radius = _POINT_SHARE * float(np.nanmedian(depth)) / float(self.intrinsics[0, 0]) / width

    def log_to(self, stream: Any) -> None:
        import rerun  # noqa: PLC0415

        frames, height, width = self.clip.signals["depth"].shape
        stream.log("scene", rerun.ViewCoordinates.RDF, static=True)
        path = self.centres[np.isfinite(self.centres).all(-1)]
        if len(path) > 1:
            stream.log("scene/camera_path", rerun.LineStrips3D([path], colors=[[255, 170, 40]]), static=True)
        if "regions" in self.clip.signals:
            stream.log("/", rerun.AnnotationContext(self._names()), static=True)
        pinhole = rerun.Pinhole(image_from_camera=np.diag([width, height, 1.0]) @ self.intrinsics, width=width, height=height)
        for frame in range(frames):
            stream.set_time("frame", sequence=frame)
            if self.clip.timestamps_seconds:
                stream.set_time("video", duration=self.clip.timestamps_seconds[frame])
            if np.isfinite(self.centres[frame]).all():
                pose = rerun.Transform3D(translation=self.centres[frame], mat3x3=self.rotations[frame])
                stream.log("scene/camera", pose)
                stream.log("scene/camera/picture", pinhole, rerun.Image(self.pictures[frame]).compress())
            shown = np.isfinite(self.points[frame]).all(-1)
            stream.log("scene/surface", self._surface(rerun, frame, shown))
            stream.log("maps/depth", rerun.DepthImage(self.clip.signals["depth"][frame], meter=1.0))
            if "regions" in self.clip.signals:
                stream.log("maps/regions", rerun.SegmentationImage(self.clip.signals["regions"][frame]))
            for name, pictures in self.maps.items():
                stream.log(f"maps/{name}", rerun.Image(pictures[frame]).compress())

    def _names(self) -> list[tuple[int, str, tuple[int, int, int]]]:
        """Number, name and colour of each object that the clip shows."""
        return [(one.number, f"{one.number} {one.phrase}", color_of(one.number)) for one in self.clip.objects if one.frames]

    def _surface(self, rerun: Any, frame: int, shown: npt.NDArray[np.bool_]) -> Any:
        """The frame's pixels as 3-D points; moving ones are tinted as in the HTML page."""
        tinted = self.maps.get("motion", self.pictures)[frame]
        return rerun.Points3D(self.points[frame][shown], colors=tinted.reshape(-1, 3)[shown], radii=self.radius)

    def _maps(self) -> dict[str, npt.NDArray[np.uint8]]:
        """Name → pictures (frame, y, x, RGB)."""
        signals = self.clip.signals
        maps = {}
        if "flow" in signals:
            maps["flow"] = colors.flow_to_rgb(signals["flow"], colors.flow_scale(signals["flow"][1:]))
        if "motion" in signals:
            maps["motion"] = colors.motion_to_rgb(signals["motion"], self.pictures)
        return maps
