"""Ways to keep clips on S3, ours and its peers', each written and read as its own documentation shows."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import fsspec
import numpy as np
import pyarrow as pa
import safetensors.numpy
import torch
from torch.utils.data import DataLoader

from schemas.base import sha256_digest
from schemas.job import EncodingProfile, Job
from schemas.log import StoredObject, UnitCommitted
from schemas.recipe import ClipRecipe, Layout, Recipe, TeacherIdentity
from schemas.signal import P4D_SIGNALS, SIGNALS, Shape, SignalName
from teacher_cache import open_cache
from teacher_cache.clips.tables import CLIPS
from teacher_cache.encodings.base import StoredArray
from teacher_cache.encodings.registry import encoding, resolve
from teacher_cache.reader.stream import DeviceReader, ReadAhead, Wanted
from teacher_cache.store.catalog import Catalog, numbered_rows
from teacher_cache.store.chunk import encode_chunks
from teacher_cache.store.layout import array_of, shard_key, shard_of, stored_arrays
from teacher_cache.store.objects import Objects
from teacher_cache.store.shard import pack_clips, unpack_clips
from teacher_cache.store.store import Store, add_clips, add_parts, create_store

IN_FLIGHT = 8
"""Requests that every random-access peer, and raw GET, may have open at once. Ours chooses, by latency: 8 to 64."""
CLIPS_PER_SHARD = 8
"""Also of the peers' shards, except MosaicML's, which are as long as it makes them by default."""

Values = dict[SignalName, np.ndarray[Any, Any]]
"""Signal → one clip's values, as the teacher gives them (depth as its log)."""
Read = Callable[[Sequence[int]], object]
"""Clip numbers → their values, as the format's user gets them."""


class Format(Protocol):
    """One way to keep clips."""

    name: str
    place: str
    """Folder of its objects. Two formats of one place are two readers of what the first one writes."""
    sequential: bool
    """Whether it can be read only in its own order; ``Read`` then gives its next clips, as many as it is asked for."""
    ours: bool
    """Whether it is read with this project's client, and so is none of the peers to be measured against."""
    keeps: bool
    """Whether clips that it has read stay on this machine, so that a second epoch would not read them again."""

    def write(self, url: str, clips: Sequence[Values]) -> None: ...

    def open(self, url: str) -> AbstractContextManager[Read]:
        """A cold reader: nothing of a clip is kept from earlier reads."""


SHAPES: dict[SignalName, Shape] = {
    "f4d": (4, 8, 16, 16, 1408),
    "depth": (16, 224, 224),
    "flow": (16, 224, 224, 2),
    "motion": (16, 224, 224),
    "camray": (16, 16, 16, 6),
}
"""One clip's shapes of L4P giant's signals."""


def synthetic_clip(seed: int) -> Values:
    """A clip of L4P giant's size: Gaussian features with a scale for each channel, smooth maps, unit rays."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal(SHAPES["f4d"], np.float32) * np.exp(rng.normal(0, 0.5, 1408)).astype("f4")
    rays = rng.standard_normal(SHAPES["camray"], np.float32)
    return {
        "f4d": features,
        "depth": _smooth(rng, 1)[..., 0],
        "flow": 4 * _smooth(rng, 2),
        "motion": 3 * _smooth(rng, 1)[..., 0] - 2,
        "camray": rays / np.linalg.norm(rays[..., :3], axis=-1, keepdims=True),
    }


def _smooth(rng: np.random.Generator, channels: int) -> np.ndarray[Any, Any]:
    """(frame 16, 224, 224, channel): noise of 14 pixels' grain, interpolated, with one part in 500 of white noise."""
    coarse = torch.from_numpy(rng.standard_normal((16, channels, 16, 16), np.float32))
    fine = torch.nn.functional.interpolate(coarse, size=(224, 224), mode="bicubic").permute(0, 2, 3, 1).numpy()
    return fine + rng.standard_normal(fine.shape, np.float32) / 500


def shards(clips: int) -> list[range]:
    """The rows of each of our store's shards."""
    return [range(first, min(first + CLIPS_PER_SHARD, clips)) for first in range(0, clips, CLIPS_PER_SHARD)]


def stored_bytes(url: str) -> int:
    return sum(found.length for found in Objects(url).listing().values())


def _in_parallel(one: Callable[[int], object]) -> Iterator[Read]:
    with ThreadPoolExecutor(IN_FLIGHT) as threads:
        yield lambda numbers: list(threads.map(one, numbers))


@dataclass
class OurStore:
    """A committed store, through the functions that a worker uses. ``handed_over``: ``float32`` or ``stored``."""

    profile: EncodingProfile
    handed_over: str = "float32"
    sequential = False
    ours = True
    keeps = False

    @property
    def name(self) -> str:
        return f"this reader, {self.handed_over}"

    @property
    def place(self) -> str:
        return f"ours-{self.profile}"

    def write(self, url: str, clips: Sequence[Values]) -> None:
        store = self.create(url, len(clips))
        for rows in shards(len(clips)):
            self.put(store, rows, [self.compress(store.recipe, self.quantise(store.recipe, clips[row])) for row in rows])

    def recipe(self) -> Recipe:
        job = Job.model_validate({"videos": {"glob": "*"}, "store": "none", "teacher": {}, "encoding": self.profile})
        return Recipe(
            teacher=TeacherIdentity(family="synthetic", config={}, weights="none", dtype="float32"),
            clips=ClipRecipe(frames=16, sampling="uniform", preprocessing="l4p", size=224, student_size=None),
            encodings=resolve(job),
            layout=Layout(clips_per_shard=CLIPS_PER_SHARD),
        )

    def create(self, url: str, count: int) -> Store:
        store = create_store(url, self.recipe(), "benchmark")
        ids = [str(number) for number in range(count)]
        columns: dict[str, list[Any]] = dict.fromkeys(("clip_id", "video", "video_id", "content_digest"), ids)
        columns["flipped"] = [False] * count
        clips = pa.Table.from_pydict(columns | dict.fromkeys(set(CLIPS.names) - set(columns), [None] * count), CLIPS)
        add_clips(store, Catalog(), lambda _: numbered_rows(clips, 0), "benchmark")
        add_parts(store, P4D_SIGNALS, SHAPES, count, "benchmark")
        return store

    def quantise(self, recipe: Recipe, clip: Values) -> Values:
        """What the encodings' arithmetic gives, which runs where the teacher does."""
        stored: Values = {}
        for name in P4D_SIGNALS:
            encoder = encoding(name, recipe.encodings[name])
            stored |= encoder.encode(SIGNALS[name], torch.from_numpy(clip[name]))[0]
        return stored

    def compress(self, recipe: Recipe, stored: Values) -> dict[str, list[bytes]]:
        arrays = {array.name: array for array in _arrays(recipe)}
        return {name: encode_chunks(values, arrays[name]) for name, values in stored.items()}

    def put(self, store: Store, rows: range, chunks: Sequence[dict[str, list[bytes]]]) -> None:
        """Create the shard of ``rows`` in every array, and commit it."""
        shard = rows[0] // CLIPS_PER_SHARD
        objects = {}
        for array in _arrays(store.recipe):
            held = {row % CLIPS_PER_SHARD: c[array.name] for row, c in zip(rows, chunks, strict=True) if array.name in c}
            if held:
                data = pack_clips(held, array, CLIPS_PER_SHARD)
                assert store.objects.create(shard_key(array, shard), data)
                objects[shard_key(array, shard)] = StoredObject(digest=sha256_digest(data), length=len(data))
        unit = UnitCommitted(shard=shard, parts=P4D_SIGNALS, rows=len(rows), objects=objects)
        assert store.log.append(lambda _: [unit], "benchmark")

    @contextmanager
    def open(self, url: str) -> Iterator[Read]:
        cache = open_cache(url)
        cache.committed_ids()
        read = cache.read if self.handed_over == "float32" else cache.read_stored
        yield lambda numbers: read(P4D_SIGNALS, [str(n) for n in numbers])


def _arrays(recipe: Recipe) -> list[StoredArray]:
    return [array for name in P4D_SIGNALS for array in stored_arrays(recipe, name, SHAPES)]


class OurStream(OurStore):
    """The same store as a trainer's stream gives it: float32 on the GPU where there is one, else on the CPU."""

    @property
    def name(self) -> str:
        return f"this stream, {self.profile}"

    def each(self, url: str, batches: Sequence[Sequence[int]]) -> Iterator[object]:
        """The batches, read ahead as for a trainer."""
        cache = open_cache(url)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        yield from cache.stream(P4D_SIGNALS, [[str(n) for n in batch] for batch in batches], device=device)
        if device == "cuda":
            torch.cuda.synchronize()


class OurStreamAsStored(OurStream):
    """The host's part of a stream to a GPU, which decodes there: what is stored, read ahead."""

    @property
    def name(self) -> str:
        return f"this stream, stored, {self.profile}"

    def each(self, url: str, batches: Sequence[Sequence[int]]) -> Iterator[object]:
        wanted = (Wanted([str(n) for n in batch], dict) for batch in batches)
        with closing(ReadAhead(open_cache(url), P4D_SIGNALS, wanted, _AsStored(torch.device("cpu")), 2)) as ahead:
            yield from ahead


class _AsStored(DeviceReader):
    def place(self, stored: Any, _then: object) -> Any:
        return stored

    def take(self, placed: Any) -> Any:
        return placed


class OurLoader(OurStream):
    """The same through a DataLoader with two spawned workers: what a stream saves."""

    @property
    def name(self) -> str:
        return f"this dataset, 2 workers, {self.profile}"

    def each(self, url: str, batches: Sequence[Sequence[int]]) -> Iterator[object]:
        sampler = [[str(n) for n in batch] for batch in batches]
        dataset = open_cache(url).dataset(P4D_SIGNALS)
        yield from DataLoader(dataset, batch_sampler=sampler, num_workers=2, multiprocessing_context="spawn")


class RawRanges(OurStore):
    """The ceiling: the bytes of our store's chunks and nothing else, by our own client, not decoded."""

    name = "raw ranged GET"

    @contextmanager
    def open(self, url: str) -> Iterator[Read]:
        objects = Objects(url)
        places: dict[int, list[tuple[str, int, int]]] = {}
        arrays = {array.name: array for array in _arrays(open_cache(url).recipe)}
        for key in objects.listing():
            if "/c/" not in key:
                continue
            start, shard = 0, shard_of(key) or 0
            for place, chunks in unpack_clips(objects.get(key) or b"", arrays[array_of(key)], CLIPS_PER_SHARD).items():
                length = sum(map(len, chunks))
                places.setdefault(shard * CLIPS_PER_SHARD + place, []).append((key, start, start + length))
                start += length
        with ThreadPoolExecutor(IN_FLIGHT) as threads:

            def get(place: tuple[str, int, int]) -> None:
                data = objects.get_range(*place)
                assert data is not None
                assert len(data) == place[2] - place[1]

            yield lambda numbers: list(threads.map(get, (place for n in numbers for place in places[n])))


@dataclass
class ZarrArrays:
    """Zarr arrays, one chunk a clip, with Zarr's default compression where they are not our store's."""

    name: str
    dtype: str = "float32"
    place: str = "zarr"
    sequential = False
    ours = False
    keeps = False

    def write(self, url: str, clips: Sequence[Values]) -> None:
        import zarr

        group = zarr.open_group(url, mode="w")
        for name, values in clips[0].items():
            shape = (len(clips), *values.shape)
            array = group.create_array(name, shape=shape, chunks=(1, *values.shape), dtype=self.dtype)
            with ThreadPoolExecutor(IN_FLIGHT) as threads:
                list(threads.map(lambda i, array=array, name=name: array.__setitem__(i, clips[i][name]), range(len(clips))))

    @contextmanager
    def open(self, url: str) -> Iterator[Read]:
        import zarr

        arrays = [array for _, array in zarr.open_group(url, mode="r", use_consolidated=False).arrays()]
        with ThreadPoolExecutor(IN_FLIGHT) as threads:
            yield lambda numbers: list(
                threads.map(lambda job: np.asarray(job[0][job[1]]), [(a, n) for n in numbers for a in arrays])
            )


class NewestZarr(ZarrArrays):
    """Sharded arrays, a clip a chunk, read by the zarr-python of another environment, which ``ZARR_PYTHON`` names.

    Its newest needs a newer Python than this project's. What is read stays in the process of that environment, so what it takes
    to hand it to the trainer is not measured.
    """

    def write(self, url: str, clips: Sequence[Values]) -> None:
        import zarr

        group = zarr.open_group(url, mode="w")
        for name, values in clips[0].items():
            shape, one, many = ((count, *values.shape) for count in (len(clips), 1, CLIPS_PER_SHARD))
            array = group.create_array(name, shape=shape, chunks=one, shards=many, dtype=self.dtype)
            for rows in shards(len(clips)):
                array[rows.start : rows.stop] = np.stack([clips[row][name] for row in rows])

    @contextmanager
    def open(self, url: str) -> Iterator[Read]:
        python = os.environ.get("ZARR_PYTHON")
        if python is None:
            raise ModuleNotFoundError(name="a Python with zarr that ZARR_PYTHON names")
        command = [python, str(Path(__file__).with_name("zarr_reader.py")), url, str(IN_FLIGHT)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
            assert reader.stdin is not None
            assert reader.stdout is not None
            one_at_a_time = Lock()

            def read(numbers: Sequence[int]) -> object:
                with one_at_a_time:
                    print(*numbers, file=reader.stdin, flush=True)
                    assert reader.stdout is not None
                    assert int(reader.stdout.readline()) == len(numbers)

            assert reader.stdout.readline(), "the reader has ended"  # its version, once it has opened the arrays
            yield read
            reader.stdin.close()


class TensorStoreArrays(ZarrArrays):
    @contextmanager
    def open(self, url: str) -> Iterator[Read]:
        import tensorstore
        import zarr

        bucket, _, path = url.removeprefix("s3://").partition("/")
        place = {"driver": "s3", "bucket": bucket, "endpoint": os.environ["AWS_ENDPOINT_URL"], "aws_region": "us-east-1"}
        arrays = [
            tensorstore.open({"driver": "zarr3", "kvstore": place | {"path": f"{path}/{name}/"}}, open=True).result()
            for name in zarr.open_group(url, mode="r", use_consolidated=False).array_keys()
        ]

        with ThreadPoolExecutor(IN_FLIGHT) as threads:
            yield lambda numbers: list(
                threads.map(lambda job: job[0][job[1]].read().result(), [(a, n) for n in numbers for a in arrays])
            )


@dataclass
class FilePerClip:
    """One object a clip, of a format that a function each writes and reads."""

    name: str
    dtype: str
    dump: Callable[[Values], bytes]
    load: Callable[[bytes], Any]
    place: str
    ranged: bool = False
    """Whether the bytes are fetched by our client in place of s3fs: what neither checksum nor compression costs."""
    sequential = keeps = False

    @property
    def ours(self) -> bool:
        return self.ranged

    def write(self, url: str, clips: Sequence[Values]) -> None:
        fs, root = fsspec.url_to_fs(url)
        with ThreadPoolExecutor(IN_FLIGHT) as threads:
            list(threads.map(lambda i: fs.pipe_file(f"{root}/{i}", self.dump(_cast(clips[i], self.dtype))), range(len(clips))))

    @contextmanager
    def open(self, url: str) -> Iterator[Read]:
        fs, root = fsspec.url_to_fs(url)
        lengths = {i["name"]: i["size"] for i in fs.ls(root, detail=True)}
        objects = Objects(url)

        def fetch(number: int) -> Any:
            if not self.ranged:
                return self.load(fs.cat_file(f"{root}/{number}"))
            data = objects.get_range(str(number), 0, lengths[f"{root}/{number}"])
            assert data is not None
            return self.load(bytes(data))

        yield from _in_parallel(fetch)


def _cast(clip: Values, dtype: str) -> Values:
    return {name: values.astype(dtype, copy=False) for name, values in clip.items()}


def _npz(clip: Values, save: Callable[..., None] = np.savez) -> bytes:
    buffer = io.BytesIO()
    save(buffer, **clip)
    return buffer.getvalue()


def _load_npz(data: bytes) -> Values:
    with np.load(io.BytesIO(data)) as arrays:
        return dict(arrays)


def _tar(clips: Mapping[int, Values]) -> bytes:
    """A tar of one npz a clip."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number, clip in clips.items():
            data = _npz(clip)
            entry = tarfile.TarInfo(f"{number:06d}.npz")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


@dataclass
class WebDataset:
    """Tar files of one npz a clip, read one after another through one pipe."""

    dtype: str
    name = place = "webdataset"
    sequential = True
    ours = False
    keeps = False

    def write(self, url: str, clips: Sequence[Values]) -> None:
        fs, root = fsspec.url_to_fs(url)
        for rows in shards(len(clips)):
            data = _tar({row: _cast(clips[row], self.dtype) for row in rows})
            fs.pipe_file(f"{root}/{rows.start // CLIPS_PER_SHARD:06d}.tar", data, chunksize=5 * 2**30)

    @contextmanager
    def open(self, url: str) -> Iterator[Read]:
        import webdataset

        fs, root = fsspec.url_to_fs(url)

        def opened(samples: Any) -> Iterator[dict[str, Any]]:
            for sample in samples:
                with fs.open(sample["url"], "rb", block_size=8 * 2**20, cache_type="readahead") as stream:
                    yield {"url": sample["url"], "stream": stream}

        pipeline = webdataset.DataPipeline(
            webdataset.SimpleShardList(sorted(fs.ls(root, detail=False))), opened, webdataset.tariterators.tar_file_expander,
            webdataset.tariterators.group_by_keys, webdataset.decode(),
        )  # fmt: skip
        with closing(iter(pipeline)) as samples:
            yield lambda numbers: [next(samples) for _ in numbers]


@dataclass
class Energon:
    """Tar files of one npz a clip with Energon's index, read one after another by its own client."""

    dtype: str
    name = "Megatron-Energon"
    place = "energon"
    sequential = True
    ours = False
    keeps = False

    def write(self, url: str, clips: Sequence[Values]) -> None:
        from megatron.energon.epathlib import EPath
        from megatron.energon.flavors.webdataset import BaseWebdatasetFactory

        with tempfile.TemporaryDirectory() as folder:
            names = []
            for rows in shards(len(clips)):
                names.append(f"{len(names):06d}.tar")
                (Path(folder) / names[-1]).write_bytes(_tar({row: _cast(clips[row], self.dtype) for row in rows}))
            BaseWebdatasetFactory.prepare_dataset(EPath(folder), names, split_parts_ratio=[("train", 1)], workers=1)
            kind = "__module__: megatron.energon\n__class__: CrudeWebdataset\n"
            (Path(folder) / ".nv-meta" / "dataset.yaml").write_text(kind)
            _upload(Path(folder), url)

    @contextmanager
    def open(self, url: str) -> Iterator[Read]:
        from megatron import energon
        from megatron.energon.task_encoder.cooking import Cooker

        class Cooked(energon.DefaultTaskEncoder):  # type: ignore[misc]
            cookers = (Cooker(energon.stateless(_cooked)),)

        bucket, _, path = url.removeprefix("s3://").partition("/")
        options = {"base_path": bucket, "endpoint_url": os.environ["AWS_ENDPOINT_URL"], "region_name": "us-east-1"}
        keys = {"access_key": os.environ["AWS_ACCESS_KEY_ID"], "secret_key": os.environ["AWS_SECRET_ACCESS_KEY"]}
        profile = {
            "storage_provider": {"type": "s3", "options": options},
            "credentials_provider": {"type": "S3Credentials", "options": keys},
        }
        with tempfile.TemporaryDirectory() as folder:
            config = Path(folder) / "msc.json"
            config.write_text(json.dumps({"profiles": {"bench": profile}}))
            os.environ["MSC_CONFIG"] = str(config)
            dataset = energon.get_train_dataset(
                f"msc://bench/{path}",
                worker_config=energon.WorkerConfig(rank=0, world_size=1, num_workers=0),
                batch_size=None,
                shuffle_buffer_size=None,
                max_samples_per_sequence=None,
                task_encoder=Cooked(),
                repeat=False,
            )
            samples = iter(energon.get_loader(dataset))
            yield lambda numbers: [next(samples) for _ in numbers]


def _cooked(sample: dict[str, Any]) -> dict[str, Any]:
    from megatron.energon import basic_sample_keys

    return basic_sample_keys(sample) | {"clip": dict(sample["npz"])}


@dataclass
class MosaicML:
    """MDS shards, each fetched to a local folder whole when a clip of it is asked for."""

    dtype: str
    compression: str | None = None
    name = "MosaicML streaming"
    place = "mosaicml"
    sequential = False
    ours = False
    keeps = True

    def write(self, url: str, clips: Sequence[Values]) -> None:
        columns = {name: f"ndarray:{self.dtype}:{','.join(map(str, v.shape))}" for name, v in clips[0].items()}
        with tempfile.TemporaryDirectory() as folder:
            with _mosaic().MDSWriter(out=folder, columns=columns, compression=self.compression) as writer:
                for clip in clips:
                    writer.write(_cast(clip, self.dtype))
            _upload(Path(folder), url)

    @contextmanager
    def open(self, url: str) -> Iterator[Read]:
        os.environ["S3_ENDPOINT_URL"] = os.environ["AWS_ENDPOINT_URL"]
        with tempfile.TemporaryDirectory() as folder:
            dataset = _mosaic().StreamingDataset(remote=url, local=folder, batch_size=CLIPS_PER_SHARD)
            yield from _in_parallel(dataset.__getitem__)


def _mosaic() -> Any:
    """`streaming.base`, without the packages for vision and text beside it and what they import."""
    if "streaming" not in sys.modules:
        found = importlib.util.find_spec("streaming")
        if found is None:
            raise ModuleNotFoundError("No module named 'streaming'", name="streaming")
        package = types.ModuleType("streaming")
        package.__path__ = list(found.submodule_search_locations or ())
        sys.modules["streaming"] = package
    return importlib.import_module("streaming.base")


@dataclass
class LitData:
    """Chunks of serialised clips; one that is asked for by number is fetched by range."""

    dtype: str
    compression: str | None = None
    name = "litData"
    place = "litdata"
    sequential = False
    ours = False
    keeps = True

    def write(self, url: str, clips: Sequence[Values]) -> None:
        from litdata.streaming.writer import BinaryWriter

        with tempfile.TemporaryDirectory() as folder:
            writer = BinaryWriter(folder, chunk_size=CLIPS_PER_SHARD, compression=self.compression)
            for number, clip in enumerate(clips):
                writer[number] = _cast(clip, self.dtype)
            writer.done()
            writer.merge()
            _upload(Path(folder), url)

    @contextmanager
    def open(self, url: str) -> Iterator[Read]:
        import litdata
        from litdata.streaming import downloader

        downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True  # the server here is plain HTTP, which it has no option for
        with tempfile.TemporaryDirectory() as folder:
            dataset = litdata.StreamingDataset(url, cache_dir=folder)
            yield lambda numbers: [dataset[n] for n in numbers]


def _upload(folder: Path, url: str) -> None:
    fs, root = fsspec.url_to_fs(url)
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        fs.pipe_file(f"{root}/{path.relative_to(folder)}", path.read_bytes(), chunksize=5 * 2**30)


def _safetensors(name: str, dtype: str, *, ranged: bool = False) -> FilePerClip:
    return FilePerClip(name, dtype, safetensors.numpy.save, safetensors.numpy.load, "safetensors", ranged)


def same_bytes() -> list[Format]:
    """Every format with the teacher's float32, lossless, in its own plain way."""
    ours = OurStore("exact")
    return [
        ours,
        RawRanges("exact"),
        ZarrArrays("zarr-python, our store", place=ours.place),
        TensorStoreArrays("tensorstore, our store", place=ours.place),
        _safetensors("safetensors a clip, s3fs", "float32"),
        _safetensors("safetensors a clip, our client", "float32", ranged=True),
        FilePerClip("npz a clip, s3fs", "float32", _npz, _load_npz, "npz"),
        WebDataset("float32"),
        Energon("float32"),
        MosaicML("float32"),
        LitData("float32"),
    ]


def as_users_store_it() -> list[Format]:
    """Ours under `fine`, and the peers in float16 with the compression that their documentation shows."""
    return [
        OurStore("fine", "stored"),
        OurStore("fine", "float32"),
        OurStreamAsStored("fine"),
        OurStream("fine"),
        OurStream("compact"),
        OurLoader("fine"),
        RawRanges("fine"),
        ZarrArrays("zarr-python", "float16"),
        NewestZarr("zarr-python's newest, sharded", "float16", place="zarr-sharded"),
        TensorStoreArrays("tensorstore", "float16"),
        _safetensors("safetensors a clip, s3fs", "float16"),
        _safetensors("safetensors a clip, our client", "float16", ranged=True),
        FilePerClip("npz a clip, compressed, s3fs", "float16", partial(_npz, save=np.savez_compressed), _load_npz, "npz"),
        WebDataset("float16"),
        Energon("float16"),
        MosaicML("float16", "zstd"),
        LitData("float16", "zstd"),
    ]
