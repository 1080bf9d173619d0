"""A store without our reader: xarray shows its maps in physical units, and every Zarr reader finds the same numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray
import zarr
from conftest import Command, Jobs

from schemas.signal import P4D_SIGNALS, SIGNALS
from teacher_cache import open_cache

MAPS = ("depth", "flow", "motion", "camray")


@pytest.fixture
def dataset(tiny_store: Path) -> xarray.Dataset:
    return xarray.open_zarr(tiny_store, consolidated=False)


def test_xarray_names_axes_units_and_meanings(dataset: xarray.Dataset) -> None:
    for name in P4D_SIGNALS:
        signal = SIGNALS[name]
        array = dataset[name]
        # Beside the rows of bytes, the features' array has one of scales and high bytes.
        assert array.dims == ("clip", *("row" if dim == "token_y" else dim for dim in signal.dims))
        assert array.attrs["long_name"] == (f"natural log of: {signal.meaning}" if name == "depth" else signal.meaning)
        assert array.attrs["units"] == ("ln(1)" if name == "depth" else signal.units)
        assert array.attrs["error_bound"]
    assert dataset["timestamps"].dims == dataset["frame_index"].dims == ("clip", "frame")
    assert dataset["timestamps"].attrs["long_name"] == "presentation time of the frame in its video"


def test_xarray_gives_what_our_reader_gives(dataset: xarray.Dataset, tiny_store: Path) -> None:
    cache = open_cache(str(tiny_store))
    rows = cache.clips["row"].to_pylist()
    ours = cache.read([*MAPS, "frame_index"], cache.clips["clip_id"].to_pylist())
    shown = {name: dataset[name].values[rows] for name in ours}
    np.testing.assert_allclose(np.exp(shown["depth"]), ours["depth"], rtol=1e-5)
    for name in ("flow", "motion", "camray", "frame_index"):
        np.testing.assert_allclose(shown[name], ours[name], rtol=1e-6, atol=1e-6)
    assert all(np.unique(shown[name]).size > 1 for name in MAPS)


@pytest.mark.parametrize(
    ("made", "names"),
    [("tiny_store", ["flow", "motion", "frame_index"]), ("regions_store", ["regions", "objects", "frame_index"])],
)
def test_zarr_and_tensorstore_read_the_same_numbers_as_we_do(
    request: pytest.FixtureRequest, made: str, names: list[str]
) -> None:
    tensorstore = pytest.importorskip("tensorstore")
    store: Path = request.getfixturevalue(made)
    cache = open_cache(str(store))
    rows = cache.clips["row"].to_pylist()
    ours = cache.read(names, cache.clips["clip_id"].to_pylist())
    for name, array in zarr.open_group(store, mode="r").arrays():
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(store / name)}}
        stored = tensorstore.open(spec, read=True, open=True).result().read().result()
        np.testing.assert_array_equal(stored, np.asarray(array))
        if name in ours and "scale_factor" in array.attrs:
            decoded = stored[rows].astype(np.float32) * np.float32(array.attrs["scale_factor"])
            np.testing.assert_array_equal(decoded + np.float32(array.attrs["add_offset"]), ours[name])
        elif name in ours:
            np.testing.assert_array_equal(stored[rows], ours[name], strict=True)


def test_what_has_no_clip_reads_as_missing_never_as_zero(tmp_path: Path, jobs: Jobs, teacher_cache_command: Command) -> None:
    folder = tmp_path / "some"
    folder.mkdir()
    (folder / "broken.mp4").write_text("no video")
    (folder / "good.mp4").write_bytes((jobs.videos / "scene-0.mp4").read_bytes())
    store = tmp_path / "store"
    job = jobs.write(store, videos={"glob": f"{folder}/*.mp4"}, layout={"clips_per_shard": 3})
    assert teacher_cache_command("run", job).status == 1
    dataset = xarray.open_zarr(store, consolidated=False)
    for name in (*MAPS, "timestamps", "frame_index"):
        assert np.isnan(dataset[name].values[0]).all()
        assert np.isfinite(dataset[name].values[1]).all()
    planes = zarr.open_array(store, path="f4d", mode="r")
    assert (np.asarray(planes[0]) == planes.fill_value).all()
    assert planes.fill_value == np.iinfo(planes.dtype).min
    assert (np.asarray(planes[1]) != planes.fill_value).any()
