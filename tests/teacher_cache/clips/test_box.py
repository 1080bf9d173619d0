"""What a decoder's process may do, and which files it reads at all: whoever finds a hole in a codec gets no more than this."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import strange_videos
from decoding import decode_frames
from PIL import Image

from schemas.clip import Window
from schemas.errors import VideoError
from schemas.recipe import ClipRecipe
from teacher_cache.clips import decoder as decoder_module
from teacher_cache.clips.decoder import Decoder
from teacher_cache.clips.packets import MAX_PIXELS
from teacher_cache.clips.preprocess import FrameSize
from teacher_cache.clips.video import DecodedClip

pytestmark = [pytest.mark.timeout(120), pytest.mark.own_decoders]

UNIFORM = ClipRecipe(frames=2, sampling="uniform", preprocessing="l4p", size=56, student_size=None)
DENSE = UNIFORM.model_copy(update={"sampling": "dense"})
SECRETS = (
    "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "RAY_AUTH_TOKEN", "HF_TOKEN", "GOOGLE_APPLICATION_CREDENTIALS",
    "HTTPS_PROXY", "PYTHONPATH",
)  # fmt: skip


@pytest.fixture
def decoder() -> Iterator[Decoder]:
    with Decoder(UNIFORM, timeout_seconds=60) as decoder:
        yield decoder


def of_process(decoder: Decoder, name: str) -> str:
    """A file in /proc of a decoder that has answered."""
    assert decoder.process is not None
    return Path(f"/proc/{decoder.process.pid}/{name}").read_text()


def test_a_decoder_has_an_environment_of_its_own(decoder: Decoder, videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, "hush")
    decoder.probe(f"{videos}/scene-0.mp4")
    held = dict(line.split("=", 1) for line in of_process(decoder, "environ").split("\0") if line)
    assert "hush" not in held.values()
    assert set(held) <= {"LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "PATH", "PYTHONHOME", "OPENBLAS_NUM_THREADS"}


def test_a_decoder_s_limits_are_hard(videos: Path) -> None:
    with Decoder(UNIFORM, timeout_seconds=7, memory_bytes=3 << 30) as decoder:
        decoder.probe(f"{videos}/scene-0.mp4")
        lines = of_process(decoder, "limits").splitlines()[1:]
        status = dict(line.split(":", 1) for line in of_process(decoder, "status").splitlines())
    limits = {line[:25].strip(): tuple(line[25:].split()[:2]) for line in lines}
    expected = {
        "Max data size": 3 << 30,
        "Max cpu time": 3656,
        "Max file size": 0,
        "Max core file size": 0,
        "Max open files": 64,
    }
    assert {name: limits[name] for name in expected} == {name: (str(bound),) * 2 for name, bound in expected.items()}
    assert status["NoNewPrivs"].strip() == "1"
    assert status["Seccomp"].strip() in ("2" if "seccomp" in LAYERS else "0")


PREPARE = """
import contextlib, json, os, signal, socket, subprocess, sys, threading
from teacher_cache.clips import box, landlock, seccomp
file, folder = sys.argv[1:]
def said(do):
    try:
        do()
    except OSError as error:
        return type(error).__name__
    return "done"
at = os.open(file, os.O_RDONLY)
listener = socket.create_server(("127.0.0.1", 0))
client = socket.socket()
assert box._give_up_privileges()
"""
TRY = """
ways = {
    "read": lambda: os.read(at, 1), "open": lambda: open(file), "list": lambda: os.listdir(folder),
    "environ": lambda: open(f"/proc/{os.getppid()}/environ"),
    "write": lambda: open(f"{folder}/new", "w"), "create": lambda: os.open(f"{folder}/other", os.O_RDONLY | os.O_CREAT),
    "remove": lambda: os.unlink(file), "chmod": lambda: os.chmod(file, 0o600),
    "connect": lambda: client.connect(listener.getsockname()), "socket": lambda: socket.socket(),
    "program": lambda: subprocess.run(["true"]), "fork": lambda: os._exit(0) if os.fork() == 0 else None,
    "signal": lambda: os.kill(os.getppid(), 0),
}
thread = threading.Thread(target=lambda: None)
thread.start()
thread.join()
print(json.dumps({name: said(do) for name, do in ways.items()}))
"""
REFUSED = {
    "landlock": {"open", "list", "environ", "write", "create", "remove", "program", "connect", "signal"},
    "seccomp": {"write", "create", "remove", "chmod", "connect", "socket", "program", "fork", "signal"},
}


def layers() -> set[str]:
    """The layers that this kernel has."""
    code = f"{PREPARE}\nprint('landlock' * landlock.restrict([]), 'seccomp' * seccomp.restrict())"
    done = subprocess.run([sys.executable, "-c", code, __file__, "/"], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


LAYERS = layers()


@pytest.mark.parametrize("layer", REFUSED)
def test_each_layer_refuses_its_part(layer: str, tmp_path: Path) -> None:
    if layer not in LAYERS:
        pytest.skip(f"this kernel has no {layer}")
    (tmp_path / "file").write_text("x")
    call = "landlock.restrict(['/usr/lib'])" if layer == "landlock" else "seccomp.restrict()"
    code = f"{PREPARE}\nassert {call}\n{TRY}"
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "file", tmp_path], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert {name for name, said in found.items() if said == "PermissionError"} == REFUSED[layer]
    assert {said for name, said in found.items() if name not in REFUSED[layer]} == {"done"}
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_layers_a_kernel_lacks_are_in_the_decoder_s_name(videos: Path) -> None:
    """As on a kernel without them: a filter of the test's own answers their system calls as such a kernel does."""
    code = f"""
import sys
from schemas.recipe import ClipRecipe
from teacher_cache.clips import box, seccomp
from teacher_cache.clips.decoder import Decoder
gone = seccomp._step(seccomp._RETURN, seccomp._IS_UNKNOWN)
seccomp._program = lambda machine: [
    seccomp._step(seccomp._LOAD, 0), *seccomp._answered(444, gone), *seccomp._answered(machine.seccomp, gone),
    seccomp._step(seccomp._RETURN, seccomp._ALLOW),
]
assert box._give_up_privileges() and seccomp.restrict()
with Decoder(ClipRecipe.model_validate_json(sys.argv[1]), 60) as decoder:
    print(next(decoder.clips({str(videos / "scene-0.mp4")!r}, [None])).decoder)
"""
    if "seccomp" not in LAYERS:
        pytest.skip("this kernel has no seccomp")
    done = subprocess.run([sys.executable, "-c", code, UNIFORM.model_dump_json()], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("), without landlock, seccomp\n")


HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nother.ts\n#EXT-X-ENDLIST\n"
DASH = """<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT1S"><Period><AdaptationSet>
<Representation id="1" mimeType="video/mp2t"><BaseURL>other.ts</BaseURL></Representation></AdaptationSet></Period></MPD>"""
SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n"


LISTS = {
    "list.m3u8": HLS, "list.mp4": HLS, "concat.mp4": "ffconcat version 1.0\nfile other.ts\n", "%d.png": "anything",
    "dash.mpd": DASH, "stream.sdp": SDP,
}  # fmt: skip


def test_what_names_other_files_is_no_video(decoder: Decoder, tmp_path: Path) -> None:
    strange_videos.write(tmp_path / "other.ts", strange_videos.pictures(20, 64, 96))
    Image.fromarray(strange_videos.pictures(1, 64, 96)[0]).save(tmp_path / "1.png")
    for name, text in LISTS.items():
        (tmp_path / name).write_text(text)
        (error,) = decoder.clips(str(tmp_path / name), [None])
        assert isinstance(error, VideoError), name
        assert error.reason == "not_a_video"
        assert "decord: not tried: its container is unknown" in error.detail


def giant() -> bytes:
    """A PNG of 33 KB that is 800 MB as RGB."""
    picture = io.BytesIO()
    Image.new("1", (16384, 16384)).save(picture, "png")
    return picture.getvalue()


def claiming(video: Path, side: int) -> Path:
    """The video with another size in its sample description (ISO 14496-12, 12.1.3)."""
    data = bytearray(video.read_bytes())
    at = data.index(b"png ", data.index(b"stsd")) + 28
    data[at : at + 4] = side.to_bytes(2, "big") * 2
    video.write_bytes(data)
    return video


def test_a_picture_too_large_is_not_decoded(decoder: Decoder, tmp_path: Path) -> None:
    (tmp_path / "named.mp4").write_bytes(giant())
    hidden = strange_videos.write_packet(tmp_path / "a.mov", giant(), codec="png", pixels="monob", size=(64, 64))
    open_ = claiming(
        strange_videos.write_packet(tmp_path / "b.mov", giant(), codec="png", pixels="monob", size=(64, 64)), 16384
    )
    found = [str(next(decoder.clips(str(path), [None]))) for path in (tmp_path / "named.mp4", hidden, open_)]
    assert found[0].startswith("not_a_video: PyAV: damaged, or no container of a video")
    assert found[1] == "decode_error: frame 0 of 1 does not decode"
    assert found[2] == f"decode_error: frame 0 of 1 has no size, or more than the {MAX_PIXELS} pixels that may be decoded"
    peak = next(line.split()[1] for line in of_process(decoder, "status").splitlines() if line.startswith("VmHWM"))
    assert int(peak) < 150_000


def test_frames_in_the_video_s_own_shape(decoder: Decoder, tmp_path: Path) -> None:
    shapes = {(64, 96): (27, 40), (20, 30): (20, 30), (300, 16): (160, 9)}
    for (height, width), (high, wide) in shapes.items():
        video = strange_videos.write(tmp_path / f"{width}.mp4", strange_videos.pictures(3, height, width))
        seen = decoder.frames(str(video), [2, 0, 2], FrameSize(40, "own"))
        whole = decode_frames(video, [0, 2])
        expected = [np.asarray(Image.fromarray(frame).resize((wide, high), Image.Resampling.BILINEAR)) for frame in whole]
        np.testing.assert_array_equal(seen.frames, np.stack(expected)[[1, 0, 1]])
        assert seen.clock.frame_index == (2, 0, 2)
        assert seen.footage.frames == 3


def test_a_process_is_replaced_before_its_processor_time_ends(videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_module, "_CPU_SECONDS", 0.01)
    processes = set()
    with Decoder(DENSE, timeout_seconds=60) as decoder:
        for number, clip in enumerate(decoder.clips(f"{videos}/scene-0.mp4", [Window(start=s, stop=s + 2) for s in range(3)])):
            assert isinstance(clip, DecodedClip)
            assert clip.clock.frame_index == (number, number + 1)
            assert decoder.process is not None
            processes.add(decoder.process.pid)
    assert len(processes) == 3


@pytest.mark.parametrize(
    "answer",
    [
        b'{"process_seconds": 0}\n{"process_seconds": 0, "shapes": [[1000000, 1000000, 1000000, 3]]}\n',
        b'{"process_seconds": 0}\n{"process_seconds": 0, "shapes": [[2, 28, 112, 3]], "clock": {"frame_index": [0, 1], '
        b'"timestamps_seconds": [0, 1]}, "decoder": "x", "cpu_seconds": 0}\n' + bytes(2 * 28 * 112 * 3),
        b'{"process_seconds": 0}\n{"process_seconds": 0, "shapes": [[2, 56, 56, 3]], "clock": {"frame_index": [0, 4294967296], '
        b'"timestamps_seconds": [0, 1]}, "decoder": "x", "cpu_seconds": 0}\n' + bytes(2 * 56 * 56 * 3),
        b'{"process_seconds": 0}\n{"process_seconds": 0, "shapes": [[2, 56, 56, 3]], "clock": {"frame_index": [0, 1], '
        b'"timestamps_seconds": [0, NaN]}, "decoder": "x", "cpu_seconds": 0}\n' + bytes(2 * 56 * 56 * 3),
        b'{"process_seconds": 0, "reason": "my_reason", "detail": ""}\n',
        b'{"process_seconds": "soon"}\n',
        b"[]\n",
        b"[" * 990 + b"\n",
        b"\xff\n",
        bytes(1002),
    ],
    ids=[
        "too large",
        "another shape",
        "no frame",
        "no time",
        "no reason",
        "no number",
        "no answer",
        "too deep",
        "no text",
        "no end",
    ],
)
def test_a_decoder_that_was_taken_over_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    monkeypatch.setattr(decoder_module, "_PROGRAM", "overtaken_decoder")
    monkeypatch.setattr(decoder_module, "_LONGEST_LINE", 1000)
    (tmp_path / "video").write_bytes(answer)
    with Decoder(UNIFORM, timeout_seconds=60) as decoder:
        (error,) = decoder.clips(str(tmp_path / "video"), [None])
        assert str(error) == "decoder_crashed: the decoder's process gave an answer that makes no sense"
        assert decoder.process is None
