"""Some layers and some frames are what the whole has there, however they are read; what cannot be meant is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

from schemas.errors import BadInput
from schemas.signal import P4D_SIGNALS
from schemas.view import View
from teacher_cache import join_caches, open_cache
from teacher_cache.reader.cache import Cache

NAMES = [*P4D_SIGNALS, "timestamps", "frame_index"]
IDS = ["scene-3.mp4", "scene-0.mp4", "scene-3.mp4"]


@pytest.fixture(scope="module")
def cache(tiny_store: Path) -> Cache:
    return open_cache(str(tiny_store))


@pytest.fixture(scope="module")
def whole(cache: Cache) -> dict[str, np.ndarray]:
    return cache.read(NAMES, IDS)


def of(whole: dict[str, np.ndarray], layers: Sequence[int] | None, frames: Sequence[int] | None) -> dict[str, np.ndarray]:
    some = {name: layers if name == "f4d" else frames for name in whole}
    return {name: values if some[name] is None else values[:, list(some[name])] for name, values in whole.items()}


def same(found: Any, expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(np.asarray(found[name]), values, err_msg=name)


CHOICES: list[tuple[Sequence[int] | None, Sequence[int] | None]] = [
    ([3], range(4)),
    ([0, 3], [0, 5, 6, 15]),
    (np.array([1, 2]), None),  # type: ignore[list-item]  # places that NumPy gave
    (None, (7,)),
]


@pytest.mark.parametrize(("layers", "frames"), CHOICES)
def test_read_and_stored_reads_give_the_chosen_places(
    cache: Cache, whole: dict[str, np.ndarray], layers: Sequence[int] | None, frames: Sequence[int] | None
) -> None:
    expected = of(whole, layers, frames)
    same(cache.read(NAMES, IDS, layers=layers, frames=frames), expected)
    stored = cache.read_stored(NAMES, IDS, layers=layers, frames=frames)
    assert {name: stored.forms[name].shape for name in NAMES} == {name: values.shape[1:] for name, values in expected.items()}
    decoded = stored.decode()
    for name, values in expected.items():  # to the last bit but for the exponential's, as of the whole
        np.testing.assert_allclose(decoded[name].numpy(), values, rtol=1e-6, atol=1e-6)


def test_streams_and_datasets_give_them_batch_after_batch(cache: Cache, whole: dict[str, np.ndarray]) -> None:
    names, some = ["f4d", "depth"], {"layers": [1], "frames": range(2, 6)}
    expected = of({name: whole[name] for name in names}, [1], range(2, 6))
    for batch in cache.stream(names, [IDS, IDS], **some):  # type: ignore[arg-type]
        same({name: batch[name] for name in names}, expected)
    dataset = cache.dataset(names, **some)  # type: ignore[arg-type]
    (batch,) = DataLoader(dataset, batch_sampler=[IDS])
    same({name: batch[name] for name in names}, expected)
    (stored,) = DataLoader(cache.stored_dataset(names, **some), sampler=[IDS], batch_size=None)  # type: ignore[arg-type]
    same({"f4d": stored.decode()["f4d"]}, {"f4d": expected["f4d"]})


def test_views_are_of_the_chosen_frames(cache: Cache) -> None:
    flipped = View(flip=True)
    seen = cache.read(["flow", "camray"], IDS, view=flipped)
    same(cache.read(["flow", "camray"], IDS, frames=[1, 9], view=flipped), of(seen, None, [1, 9]))


def test_joined_stores_take_each_what_concerns_it(cache: Cache, whole: dict[str, np.ndarray]) -> None:
    """One of them holds no features, and of the other only these are read."""
    joined = join_caches({"one": cache, "two": open_cache(cache.url)}, choose={"f4d": "one"})
    names = ["f4d", "two:depth", "frame_index"]
    expected = of({"f4d": whole["f4d"], "two:depth": whole["depth"], "frame_index": whole["frame_index"]}, [2], [0, 1])
    same(joined.read(names, IDS, layers=[2], frames=[0, 1]), expected)
    same({"f4d": joined.read_stored(names, IDS, layers=[2], frames=[0, 1]).decode()["f4d"]}, {"f4d": expected["f4d"]})
    (batch,) = joined.stream(names, [IDS], layers=[2], frames=[0, 1])
    same({name: batch[name] for name in names}, expected)
    with pytest.raises(BadInput, match="`layers` chooses on the axis `layer`, and of two:depth none has it"):
        joined.read(["two:depth"], IDS, layers=[0])


@pytest.mark.parametrize(
    ("names", "layers", "frames", "told"),
    [
        (["f4d"], [4], None, r"`layers` is \[4\]; give places on the axis `layer` of f4d, which are 0 to 3 whatever"),
        (["f4d"], [-1], None, r"which are 0 to 3"),
        (["f4d", "depth"], [14], range(4), r"which are 0 to 3"),
        (["depth"], None, [3, 1], r"of depth, which are 0 to 15 .* each once and in ascending order"),
        (["timestamps"], None, [1, 1], r"of timestamps, which are 0 to 15"),
        (["depth"], None, [], r"`frames` is \[\]; give places"),
        (["depth"], None, 3, r"`frames` is 3; give a list or a range of places"),
        (["depth"], None, [0.5], r"`frames` is \[0.5\]; give a list or a range"),
        (["depth"], None, "4", r"`frames` is '4'; give a list or a range"),
        (["depth", "flow"], [0], None, "`layers` chooses on the axis `layer`, and of depth, flow none has it"),
        (["f4d"], None, [0], "`frames` chooses on the axis `frame`, and of f4d none has it"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_read(
    cache: Cache, names: list[str], layers: Any, frames: Any, told: str
) -> None:
    for method in (cache.read, cache.read_stored):
        with pytest.raises(BadInput, match=told):
            method(names, ["scene-0.mp4"], layers=layers, frames=frames)
    for made in (cache.dataset, cache.stored_dataset):
        with pytest.raises(BadInput, match=told):
            made(names, layers=layers, frames=frames)
    with pytest.raises(BadInput, match=told):
        cache.stream(names, [["scene-0.mp4"]], layers=layers, frames=frames)


def test_of_no_signals_there_is_nothing_to_choose(cache: Cache) -> None:
    assert cache.read([], IDS, layers=[0], frames=[0]) == {}
