"""Readers give exactly the frames asked for; bad files give one sentence; nothing hangs.

`python -m pytest tests/unit/test_video.py -s -k table` prints what each kind of bad file gets.
"""
import importlib.util
import multiprocessing
import os
import pickle
import random
import signal
import socket
import struct
import subprocess
import sys
import time
import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from support.waiting import PATIENCE, wait_for

from vicmae.media import pictures
from vicmae.errors import MediaError, PictureError, VideoError
from vicmae.media.pictures import read_picture
from vicmae.media.video import open_video


@pytest.fixture(autouse=True)
def alarm():
    """No test may hang."""
    def ring(*_): raise TimeoutError(f"the test took more than {PATIENCE:.0f} s")
    signal.signal(signal.SIGALRM, ring)
    signal.alarm(int(PATIENCE))
    yield
    signal.alarm(0)


# Files: every frame carries its index as eight light or dark fields ------------------------------

def numbered(count: int, height: int, width: int) -> list[np.ndarray]:
    """Frames [H, W, 3] with their index in 2 x 4 fields, least bit first."""
    frames = []
    for i in range(count):
        bits = np.array([i >> k & 1 for k in range(8)]).reshape(2, 4)
        rows, cols = np.arange(height) * 2 // height, np.arange(width) * 4 // width
        frames.append(np.repeat((40 + 170 * bits[rows][:, cols])[..., None], 3, 2).astype(np.uint8))
    return frames


def numbers(frames: np.ndarray, turn: int = 0) -> list[int]:
    """The indices that frames carry; `turn` quarter turns are undone first."""
    found = []
    for frame in frames:
        grey = np.rot90(frame, -turn)[..., 1]
        height, width = grey.shape
        fields = grey[[height // 4, height * 3 // 4]][:, [width * k // 8 for k in (1, 3, 5, 7)]]
        found.append(sum(int(v) << k for k, v in enumerate((fields > 125).ravel())))
    return found


def write(path: Path, count=60, size=(48, 64), codec="libx264", fmt="yuv420p", options=None,
          times=None, mux=None, streams=1, noise=0) -> Path:
    """A video of numbered frames, with noise on them; a second stream is smaller and shorter."""
    try: av.codec.Codec(codec, "w")
    except Exception: pytest.skip(f"this PyAV has no encoder {codec}")
    with av.open(str(path), "w", options=mux or {}) as container:
        made = []
        for k in range(streams):
            small = 2 if k else 1
            stream = container.add_stream(codec, rate=24, options={"g": "12", "sc_threshold": "0"}
                                          if options is None else options)
            stream.height, stream.width, stream.pix_fmt = size[0] // small, size[1] // small, fmt
            if times is not None: stream.codec_context.time_base = Fraction(1, 1000)
            made.append((stream, numbered(count // small, stream.height, stream.width)))
        for stream, frames in made:
            grain = np.random.default_rng(0).integers(-noise, noise + 1, (*size, 3))
            for i, rgb in enumerate(frames):
                if noise: rgb = (rgb + np.roll(grain, 7 * i, 1)).astype(np.uint8)
                frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
                if times is not None: frame.pts, frame.time_base = int(times[i]), Fraction(1, 1000)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    if codec == "libsvtav1" and hasattr(os, "sched_setscheduler"):  # it makes root's thread a
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))  # real-time one: others starve
    return path


def write_rotated(path: Path, matrix: tuple) -> Path:
    """Write the display matrix (a, b, c, d) into the header of an mp4's track."""
    data = bytearray(write(path, size=(64, 112)).read_bytes())
    a, b, c, d = (65536 * v for v in matrix)
    struct.pack_into(">9i", data, data.index(b"tkhd") + 44, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def write_edited(path: Path) -> Path:
    """An mp4 with an edit list: it begins at frame 18, whose key frame is frame 12."""
    whole = write(path.with_suffix(".whole.mp4"))
    with av.open(str(whole)) as source, av.open(
            str(path), "w", container_options={"avoid_negative_ts": "disabled"}) as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is None: continue
            shift = int(Fraction(18, 24) / packet.time_base)
            packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copy
            target.mux(packet)
    return path


OPEN_GOP = {"x264-params": "keyint=12:min-keyint=12:open-gop=1:bframes=3:b-adapt=0:scenecut=0"}
VARIABLE = np.cumsum(random.Random(0).choices(range(10, 90), k=60))
FILES = {
    "h264.mp4": {}, "one_group.mp4": {"options": {"g": "250", "bf": "0"}},
    "b_frames.mp4": {"options": {"g": "24", "bf": "4", "b_strategy": "0", "sc_threshold": "0"}},
    "open_gop.mp4": {"options": OPEN_GOP}, "open_gop.mkv": {"options": OPEN_GOP},
    "x265.mp4": {"codec": "libx265", "options": {"x265-params": "keyint=12:log-level=none"}},
    "intra_refresh.mp4": {"options": {"x264-params": "intra-refresh=1:keyint=12"}},
    "32_wide.mp4": {"size": (32, 32)}, "16_wide.mp4": {"size": (16, 16)},
    "96_wide.mp4": {"size": (64, 96)},
    "odd.mp4": {"size": (51, 67), "fmt": "yuv444p"}, "10_bit.mp4": {"fmt": "yuv420p10le"},
    "grey.mp4": {"fmt": "gray"}, "grey.mkv": {"fmt": "gray", "codec": "ffv1", "options": {}},
    "variable.mp4": {"times": VARIABLE}, "variable.mkv": {"times": VARIABLE},
    "fragmented.mp4": {"mux": {"movflags": "frag_keyframe+empty_moov"}},
    "near_keys.mp4": {"options": {"g": "12"}, "mux": {"movflags": "frag_keyframe+empty_moov"}},
    "two_streams.mp4": {"streams": 2}, "h264.avi": {}, "h264.ts": {}, "h264.mkv": {},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"g": "12", "bf": "2"}},
    "mpeg4.mp4": {"codec": "mpeg4", "options": {"g": "12", "bf": "2"}},
    "mpeg2.mpg": {"codec": "mpeg2video", "options": {"g": "12", "bf": "2"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"g": "12", "deadline": "realtime"}},
    "vp9_hidden.webm": {"codec": "libvpx-vp9", "options": {"g": "24", "auto-alt-ref": "1",
                        "lag-in-frames": "16", "cpu-used": "8"}},
    "vp8.webm": {"codec": "libvpx", "options": {"g": "24", "auto-alt-ref": "1",
                 "lag-in-frames": "16"}},
    "av1.mp4": {"codec": "libsvtav1", "size": (64, 64), "options": {"g": "12", "preset": "12",
                "crf": "20"}},
    "moving.gif": {"codec": "gif", "fmt": "rgb8", "options": {}},
}
TURNED = {"turned_90.mp4": ((0, -1, 1, 0), 1), "turned_180.mp4": ((-1, 0, 0, -1), 2),
          "turned_270.mp4": ((0, 1, -1, 0), 3)}
EDITED = "edit_list.mp4"
NOT_FOR_DECORD = {"open_gop", "x265", "intra_refresh", "32_wide", "16_wide", "96_wide", "edit_list",
                  "near_keys"}
NOT_FOR_TORCHCODEC = {"near_keys.mp4", "intra_refresh.mp4", "moving.gif", "h264.avi", "h264.ts",
                      "mpeg4.avi", "mpeg4.mp4", "mpeg2.mpg", "vp8.webm", "grey.mkv"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory): return tmp_path_factory.mktemp("videos")


def make(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.exists():
        if name in TURNED: write_rotated(path, TURNED[name][0])
        elif name == EDITED: write_edited(path)
        else: write(path, **FILES[name])
    return path


def reference(path: Path) -> np.ndarray:
    """All frames by one decoding from start to end: what is true, by definition."""
    with av.open(str(path)) as container:
        frames = [f.to_ndarray(format="rgb24")
                  for f in container.decode(container.streams.best("video"))]
    return np.stack([np.rot90(f, TURNED.get(path.name, (0, 0))[1]) for f in frames])


def check_exact(opened, truth: np.ndarray) -> None:
    """Singly, shuffled, in batches, at once, twice, and by seconds."""
    count = len(truth)
    assert opened.num_frames == count and (opened.height, opened.width) == truth.shape[1:3]
    for i in range(count): assert np.array_equal(opened.frames([i])[0], truth[i]), f"{i} alone"
    order = np.random.default_rng(0).permutation(count)
    assert np.array_equal(opened.frames(order), truth[order]), "shuffled"
    for i in range(0, count, 7):
        assert np.array_equal(opened.frames(order[i:i + 7]), truth[order[i:i + 7]]), f"batch at {i}"
    assert np.array_equal(opened.frames(range(count)), truth), "all at once"
    assert np.array_equal(opened.frames([3, 0, 3]), truth[[3, 0, 3]]), "repeated"
    assert np.array_equal(opened.frames_at(opened.times), truth), "by seconds"


# Exactness ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", [*FILES, *TURNED, EDITED])
def test_auto_is_exact(folder, name):
    path = make(folder, name)
    truth = reference(path)
    first = 18 if name == EDITED else 0
    assert numbers(truth, TURNED.get(name, (0, 0))[1]) == list(range(first, 60))
    with open_video(path) as opened:
        assert opened.reader == "pyav"
        check_exact(opened, truth)


@pytest.mark.parametrize("name", [*FILES, *TURNED, EDITED])
def test_decord_is_exact_or_refuses(folder, name):
    pytest.importorskip("decord")
    path = make(folder, name)
    try: opened = open_video(path, reader="decord")
    except VideoError as e:
        assert "decord" in str(e) and "reader='auto'" in str(e)
        trusted = not path.name.startswith(("mpeg", "moving", "vp8", "grey.mkv"))
        assert path.stem in NOT_FOR_DECORD or not trusted or path.suffix in (".avi", ".ts")
    else: check_exact(opened, reference(path))


@pytest.mark.skipif(importlib.util.find_spec("torchcodec") is None, reason="torchcodec is not here")
@pytest.mark.parametrize("name", [*FILES, *TURNED, EDITED])
def test_torchcodec_is_exact_or_refuses(folder, name):
    path = make(folder, name)
    try: opened = open_video(path, reader="torchcodec", time_limit=50)
    except ImportError as e: pytest.skip(str(e))
    except VideoError as e: assert "torchcodec" in str(e) and path.name in NOT_FOR_TORCHCODEC
    else:
        try: check_exact(opened, reference(path))
        except VideoError as e: assert "torchcodec" in str(e) and path.name in NOT_FOR_TORCHCODEC


def test_decord_alone_is_wrong_on_open_groups(folder):
    """The reason for all this care; if it fails, decord was mended and the rule can go."""
    decord = pytest.importorskip("decord")
    path = make(folder, "x265.mp4")
    reader = decord.VideoReader(str(path), num_threads=1)
    got = [numbers(reader.get_batch([i]).asnumpy())[0] for i in range(59, -1, -1)]
    assert got != list(range(59, -1, -1))


def test_frames_through_the_helper_are_the_same(folder):
    for name in ("open_gop.mp4", "variable.mkv", "mpeg4.avi", "turned_90.mp4"):
        path = make(folder, name)
        with open_video(path, time_limit=30) as far, open_video(path) as near:
            assert np.array_equal(far.times, near.times) and far.reader == "pyav"
            check_exact(far, reference(path))


def test_times_follow_the_stamps(folder):
    for name in ("variable.mp4", "variable.mkv"):
        with open_video(make(folder, name)) as opened:
            assert np.allclose(opened.times, (VARIABLE - VARIABLE[0]) / 1000, atol=1e-3)
            middle = (opened.times[20] + opened.times[21]) / 2
            assert numbers(opened.frames_at([middle, 0])) == [20, 0]
    with open_video(make(folder, "h264.mp4")) as opened:
        assert opened.fps == pytest.approx(24) and opened.duration == pytest.approx(2.5)


def test_best_of_several_streams(folder):
    with open_video(make(folder, "two_streams.mp4")) as opened:
        assert (opened.num_frames, opened.height, opened.width) == (60, 48, 64)


def test_wrong_requests_are_refused(folder):
    with open_video(make(folder, "h264.mp4")) as opened:
        for wrong in ([60], [-1], [0, 99]):
            with pytest.raises(IndexError, match=r"frames 0 to 59, not"): opened.frames(wrong)
        with pytest.raises(IndexError, match="lasts 2.500 s"): opened.frames_at([2.6])
        with pytest.raises(TypeError, match="whole numbers"): opened.frames([0.5])
        assert opened.frames([]).shape == (0, 48, 64, 3)
    with pytest.raises(ValueError, match="auto, pyav, decord, torchcodec, frames"):
        open_video(make(folder, "h264.mp4"), reader="opencv")


def test_folder_of_frames(folder):
    frames = numbered(12, 30, 40)
    (folder / "frames").mkdir()
    for i, frame in enumerate(frames): Image.fromarray(frame).save(folder / "frames" / f"f{i}.png")
    for limit in (None, 30):
        with open_video(folder / "frames", time_limit=limit, fps=6) as opened:
            assert opened.reader == "frames" and opened.fps == 6 and opened.duration == 2
            check_exact(opened, np.stack(frames))


# Processes ---------------------------------------------------------------------------------------

@pytest.mark.clocks
def test_a_video_can_be_used_after_a_fork(folder):
    path, context = make(folder, "open_gop.mp4"), multiprocessing.get_context("fork")
    truth = reference(path)
    readers = ["pyav", "decord"] if importlib.util.find_spec("decord") else ["pyav"]
    for reader, limit in [(r, limit) for r in readers for limit in (None, 30)]:
        opened = open_video(make(folder, "h264.mp4") if reader == "decord" else path, reader, limit)
        here = opened.frames([40, 2])
        queue = context.Queue()
        def read(k): queue.put((k, opened.frames([k, 2])))
        children = [context.Process(target=read, args=(k,), daemon=True) for k in (30, 50)]
        for child in children: child.start()
        between = opened.frames([40, 2])
        for _ in children:
            k, got = queue.get(timeout=PATIENCE)
            assert numbers(got) == [k, 2] == numbers(truth[[k, 2]])
        for child in children: child.join(PATIENCE)
        assert all(child.exitcode == 0 for child in children)
        assert np.array_equal(here, between) and np.array_equal(here, opened.frames([40, 2]))


def test_a_child_that_never_reads_ends(folder):
    """Decoders of the parent are not closed in a child, where their threads do not exist."""
    pytest.importorskip("decord")
    code = ("import os, sys; from vicmae.media.video import open_video\n"
            f"v = open_video({str(make(folder, 'h264.mp4'))!r}, 'decord'); v.frames([3])\n"
            "pid = os.fork()\n"
            "if not pid: del v; sys.exit(7)\n"
            "assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7\n")
    assert subprocess.run([sys.executable, "-c", code], timeout=PATIENCE).returncode == 0


def test_a_video_can_be_pickled(folder):
    opened = open_video(make(folder, "h264.mp4"))
    again = pickle.loads(pickle.dumps(opened))
    assert np.array_equal(again.frames([7]), opened.frames([7])) and again.num_frames == 60
    error = pickle.loads(pickle.dumps(VideoError("a.mp4", "is bad", "mend it")))
    assert str(error) == "a.mp4 is bad; mend it." and isinstance(error, OSError)


@pytest.mark.clocks
def test_time_limit_ends_a_stopped_helper(folder):
    """A stopped process is as deaf as C code that holds the interpreter: only a kill helps."""
    opened = open_video(make(folder, "h264.mp4"), time_limit=1.0)
    os.kill(pictures._HELPERS["pyav"].process.pid, signal.SIGSTOP)
    start = time.monotonic()
    with pytest.raises(VideoError, match="h264.mp4 was not read within 1 s"): opened.frames([5])
    assert time.monotonic() - start < 60
    assert numbers(opened.frames([5, 6])) == [5, 6]           # a new helper reads on


@pytest.mark.clocks
def test_time_limit_ends_a_reader_that_hangs_in_c(folder, tmp_path, monkeypatch):
    """A pipe that nobody writes hangs ffmpeg for ever, if one opens it: here the helper does."""
    (tmp_path / "sitecustomize.py").write_text(
        "import pathlib, stat, subprocess\nstat.S_ISFIFO = lambda mode: False\n"
        "child = subprocess.Popen(['sleep', '300'])\n"         # as a decoder might start one
        f"pathlib.Path({str(tmp_path / 'child')!r}).write_text(str(child.pid))\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(pictures, "_HELPERS", {})
    pipe = tmp_path / "pipe.mp4"
    os.mkfifo(pipe)
    with pytest.raises(VideoError, match="pipe.mp4 was not read within 0.5 s"):
        open_video(pipe, time_limit=0.5)
    assert not pictures._HELPERS
    state = Path(f"/proc/{(tmp_path / 'child').read_text()}/stat")
    over = lambda: not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] in "ZX"
    wait_for("end of what the helper had started", over)        # the alarm ends this


@pytest.mark.clocks
def test_a_crash_in_the_helper_is_an_error(folder):
    opened = open_video(make(folder, "h264.mp4"), time_limit=20)
    os.kill(pictures._HELPERS["pyav"].process.pid, signal.SIGSEGV)
    with pytest.raises(VideoError, match="made its reader crash"): opened.frames([5])
    assert numbers(opened.frames([5])) == [5]


def test_import_is_light():
    code = ("import sys; import vicmae.media.video; "
            "heavy = {'torch', 'av', 'decord', 'torchcodec', 'PIL'}; "
            "assert not heavy & set(sys.modules), heavy & set(sys.modules)")
    subprocess.run([sys.executable, "-c", code], check=True)


# Bad files ---------------------------------------------------------------------------------------

def bytes_of(folder: Path, **kwargs) -> bytes:
    path = folder / "source.mp4"
    write(path, **kwargs)
    return path.read_bytes()


def put(folder: Path, name: str, data: bytes) -> Path:
    (folder / name).write_bytes(data)
    return folder / name


def made(action, path: Path) -> Path:
    action(path)
    return path


def audio_only(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 16000
        for _ in range(8):
            frame.pts = None
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def bit_flips(data: bytes) -> bytes:
    data, rng = bytearray(data), random.Random(1)
    for _ in range(400): data[rng.randrange(len(data) // 3, len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def bound_socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)                        # names of sockets are short
    try: socket.socket(socket.AF_UNIX).bind(path.name)
    finally: os.chdir(here)


def huge_png() -> bytes:
    """A tiny file that claims 60,000 x 60,000 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    return b"".join([b"\x89PNG\r\n\x1a\n", struct.pack(">I", 13), header,
                     struct.pack(">I", zlib.crc32(header)), b"\0\0\0\x09IDAT", bytes(13)])


def deep_rgb(pixels: np.ndarray) -> bytes:
    """A PNG of 16 bits a colour, which Pillow cannot write."""
    chunk = lambda name, data: (struct.pack(">I", len(data)) + name + data
                                + struct.pack(">I", zlib.crc32(name + data)))
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, 2, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows))
            + chunk(b"IEND", b""))


def two_sizes(path: Path) -> Path:
    """Two transport streams one behind the other, as after a change of channel."""
    parts = [write(path.with_name(f"part{k}.ts"), count=12, size=(48 * k, 64 * k)) for k in (1, 2)]
    return put(path.parent, path.name, b"".join(part.read_bytes() for part in parts))


def saved(image: Image.Image, path: Path) -> bytes:
    image.save(path)
    return path.read_bytes()


NOISE = Image.effect_noise((99, 99), 60)
FAST = {"mux": {"movflags": "faststart"}}
BAD_VIDEOS = {
    "empty file": lambda d: put(d, "empty.mp4", b""),
    "missing file": lambda d: d / "missing.mp4",
    "dangling link": lambda d: made(lambda p: p.symlink_to("nowhere.mp4"), d / "link.mp4"),
    "text": lambda d: put(d, "text.mp4", b"not a video at all\n" * 50),
    "text named .txt": lambda d: put(d, "text.txt", b"ffmpeg would draw this as a film\n" * 99),
    "web page": lambda d: put(d, "page.mp4", b"<!DOCTYPE html><html>404 not found</html>" * 30),
    "list of addresses": lambda d: put(d, "list.mp4", b"#EXTM3U\n#EXTINF:9,\nhttp://127.0.0.1/a.ts\n"),
    "zeros": lambda d: put(d, "zeros.mp4", bytes(5000)),
    "noise": lambda d: put(d, "noise.mp4", random.Random(0).randbytes(5000)),
    "sound only": lambda d: made(audio_only, d / "sound.mp4"),
    "jpeg named mp4": lambda d: made(lambda p: NOISE.save(p, "JPEG"), d / "jpeg.mp4"),
    "png named mp4": lambda d: made(lambda p: NOISE.save(p, "PNG"), d / "png.mp4"),
    "cut off, index at the end": lambda d: put(d, "cut_end.mp4", bytes_of(d)[:-900]),
    "cut off, index in front": lambda d: put(
        d, "cut_front.mp4", (lambda b: b[:len(b) * 3 // 10])(bytes_of(d, size=(240, 320), **FAST))),
    "cut off, mkv": lambda d: (lambda p: put(d, "cut.mkv", p.read_bytes()[:p.stat().st_size // 3]))(
        write(d / "source.mkv")),
    "frames of two sizes in a clip": lambda d: two_sizes(d / "sizes.ts"),
    "script that joins clips": lambda d: put(d, "join.mp4", b"ffconcat version 1.0\nfile a.mp4\n"),
    "SVG named mp4": lambda d: put(d, "svg.mp4", b"<?xml version='1.0'?>\n<svg width='9'/>"),
    "only the first 100 bytes": lambda d: put(d, "head.mp4", bytes_of(d)[:100]),
    "bits flipped": lambda d: put(
        d, "flipped.mp4", bit_flips(bytes_of(d, size=(240, 320), **FAST))),
    "unknown codec": lambda d: put(d, "codec.mp4", bytes_of(d).replace(b"avc1", b"zzzz")),
    "one frame": lambda d: write(d / "one.mp4", count=1),
    "folder without pictures": lambda d: made(lambda p: p.mkdir(), d / "empty_folder"),
    "folder with one picture": lambda d: made(lambda p: (p.mkdir(), Image.new("RGB", (9, 9)).save(
        p / "0.png")), d / "one_picture"),
    "frames of two sizes": lambda d: made(lambda p: (p.mkdir(), [Image.new("RGB", (9, 9 + k)).save(
        p / f"{k}.png") for k in range(3)]), d / "two_sizes"),
    "named pipe": lambda d: made(os.mkfifo, d / "pipe.mp4"),
    "socket": lambda d: made(bound_socket, d / "socket.mp4"),
    "device": lambda d: Path("/dev/zero"),
}
BAD_PICTURES = {
    "empty picture": lambda d: put(d, "empty.jpg", b""),
    "text as picture": lambda d: put(d, "text.jpg", b"hello " * 99),
    "web page as picture": lambda d: put(d, "page.jpg", b"<html>sorry</html>"),
    "cut-off jpeg": lambda d: put(d, "cut.jpg", saved(NOISE, d / "noise.jpg")[:1500]),
    "cut-off png": lambda d: put(d, "cut.png", saved(NOISE, d / "noise.png")[:1500]),
    "video as picture": lambda d: make(d, "h264.mp4"),
    "folder as picture": lambda d: made(lambda p: p.mkdir(), d / "folder.jpg"),
    "link as picture": lambda d: made(lambda p: p.symlink_to("nowhere.jpg"), d / "link.jpg"),
    "pipe as picture": lambda d: made(os.mkfifo, d / "pipe.jpg"),
    "SVG as picture": lambda d: put(d, "svg.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    "PostScript as picture": lambda d: put(d, "ps.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\nshowpage\n"),
    "PDF as picture": lambda d: put(d, "pdf.png", b"%PDF-1.7\n%\xe2\xe3"),
    "FITS as picture": lambda d: put(d, "fits.tif", b"SIMPLE  =                   T" + b" " * 5730),
    "HEIC as picture": lambda d: put(
        d, "heic.jpg", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99)),
    "floats beyond 1": lambda d: made(Image.fromarray(np.float32([[0, 255]])).save, d / "f.tif"),
    "not a number": lambda d: made(Image.fromarray(np.float32([[0, np.nan]])).save, d / "nan.tif"),
    "32 bits beyond 255": lambda d: made(Image.fromarray(np.int32([[0, 256]])).save, d / "i.tif"),
    "12-bit colours in 16": lambda d: put(
        d, "dark.png", deep_rgb(np.full((4, 4, 3), 4000, np.uint16))),
    "too many pixels": lambda d: put(d, "bomb.png", huge_png()),
}


def use(path: Path, kind: str, time_limit=None) -> None:
    """What training does with a file: open it, read from all of it."""
    if kind in BAD_PICTURES: read_picture(path, time_limit)
    else:
        with open_video(path, time_limit=time_limit) as opened:
            opened.frames(range(opened.num_frames))


def message(kind: str, folder: Path, time_limit=None) -> tuple[str, Path]:
    path = {**BAD_VIDEOS, **BAD_PICTURES}[kind](folder)
    with pytest.raises(PictureError if kind in BAD_PICTURES else VideoError) as caught:
        use(path, kind, time_limit)
    return str(caught.value), path


@pytest.mark.parametrize("time_limit", [None, 20])
@pytest.mark.parametrize("kind", [*BAD_VIDEOS, *BAD_PICTURES])
def test_bad_file(kind, time_limit, tmp_path):
    text, path = message(kind, tmp_path, time_limit)
    assert text.startswith(f"{path} ") and "; " in text and text.endswith(".") and "\n" not in text
    assert len(text) - len(str(path)) < 200


def test_table_of_bad_files(tmp_path):
    """`-s` shows it."""
    print()
    for number, kind in enumerate([*BAD_VIDEOS, *BAD_PICTURES]):
        (tmp_path / str(number)).mkdir()
        text, path = message(kind, tmp_path / str(number))
        print(f"{kind:27s} {text.replace(str(path.parent) + os.sep, '')}")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path):
    path = put(tmp_path, "secret.mp4", b"x")
    path.chmod(0)
    with pytest.raises(VideoError, match="may not be read"): open_video(path)


def test_one_frame_can_be_asked_for(tmp_path):
    with open_video(write(tmp_path / "one.mp4", count=1), min_frames=1) as opened:
        assert numbers(opened.frames([0])) == [0] and opened.fps > 0 and opened.duration > 0


def test_damage_spares_the_frames_before_it(tmp_path):
    """Frames of sound groups are exact; frames of damaged ones are refused, not made up."""
    data = bytearray(bytes_of(tmp_path, size=(240, 320), **FAST))
    truth = reference(tmp_path / "source.mp4")
    spot = len(data) - len(data) // 8
    data[spot:spot + 600] = random.Random(0).randbytes(600)
    with open_video(put(tmp_path, "damaged.mp4", bytes(data))) as opened:
        assert np.array_equal(opened.frames(range(24)), truth[:24])
        with pytest.raises(VideoError, match="is damaged at or before"): opened.frames(range(60))


def test_a_damaged_group_is_refused_as_a_whole(tmp_path):
    """Frames that lean on a damaged one decode without an error; so they are not given out."""
    data = bytearray(bytes_of(tmp_path, size=(240, 320), options={"g": "12", "bf": "0"}, **FAST))
    truth = reference(tmp_path / "source.mp4")
    spot = len(data) * 2 // 3
    data[spot:spot + 60] = random.Random(0).randbytes(60)
    with open_video(put(tmp_path, "damaged.mp4", bytes(data))) as opened:
        good = [i for i in range(60) if readable(opened, i)]
        assert 24 < len(good) < 60
        assert all(np.array_equal(opened.frames([i])[0], truth[i]) for i in good)


def readable(opened, index: int) -> bool:
    try: return len(opened.frames([index])) == 1
    except VideoError: return False


RATE = {"g": "12", "bf": "2", "b": "4M", "qmin": "4", "qmax": "9"}
CUT = {"mp4": FAST, "mkv": {}, "avi": {"codec": "mpeg4", "options": RATE}, "flv": {}, "ts": {},
       "mpg": {"codec": "mpeg2video", "options": RATE},
       "webm": {"codec": "libvpx", "options": {"g": "24", "deadline": "realtime", "cpu-used": "8"}}}


@pytest.mark.parametrize("kind", CUT)
def test_a_clip_is_used_up_to_its_damaged_end(tmp_path, kind):
    """Wherever it is cut: right frames in their order, a note, and of a small part nothing."""
    data = write(tmp_path / f"whole.{kind}", noise=25, **CUT[kind]).read_bytes()
    truth = reference(tmp_path / f"whole.{kind}")
    assert open_video(tmp_path / f"whole.{kind}").notes == []
    exact = {frame.tobytes(): i for i, frame in enumerate(truth)}
    for share in (*np.linspace(0.62, 0.98, 9), 0.3):
        path = put(tmp_path, f"cut.{kind}", data[:int(len(data) * share)])
        try: opened = open_video(path)
        except VideoError as error:
            assert share == 0.3 and "cut off" in str(error)
            continue
        got = [exact[frame.tobytes()] for frame in opened.frames(range(opened.num_frames))]
        assert got == sorted(set(got)) and 0.9 * share * 60 - 8 < len(got) <= 60
        assert kind in ("ts", "mpg") or share > 0.3             # these do not say how long they are
        if len(got) < 58 and kind != "mpg":
            assert len(opened.notes) == 1 and opened.notes[0].startswith(f"{path} is cut off or")
            assert open_video(path, time_limit=30).notes == opened.notes


def test_a_fragmented_clip_is_used_up_to_its_end(tmp_path):
    data = bytes_of(tmp_path, size=(240, 320), mux={"movflags": "frag_keyframe+empty_moov"})
    truth = reference(tmp_path / "source.mp4")
    with open_video(put(tmp_path, "cut.mp4", data[:len(data) * 3 // 4])) as opened:
        frames = opened.frames(range(opened.num_frames))
        assert 30 <= len(frames) < 60 and np.array_equal(frames, truth[numbers(frames)])


# Shapes and sizes --------------------------------------------------------------------------------

def write_ratio(path: Path, ratio: Fraction, **options) -> Path:
    """A video whose pixels are `ratio` times as wide as high."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        stream.codec_context.sample_aspect_ratio = ratio
        for rgb in numbered(12, 48, 64):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("ratio, width", [("16/11", 93), ("1/2", 32), ("4/3", 85), ("1", 64),
                                          ("5", 64), ("1/6", 64)])
def test_pixels_that_are_not_square(tmp_path, ratio, width):
    path = write_ratio(tmp_path / "wide.mp4", Fraction(ratio))
    for limit in (None, 30):
        with open_video(path, time_limit=limit) as opened:
            frames = opened.frames(range(12))
            assert (opened.height, opened.width) == (48, width) == frames.shape[1:3]
            assert numbers(frames) == list(range(12))
            assert np.array_equal(opened.frames([7])[0], frames[7])
            assert bool(opened.notes) == (ratio in ("5", "1/6"))
    if width != 64 and importlib.util.find_spec("decord"):
        with pytest.raises(VideoError, match="not square"): open_video(path, "decord")


def test_a_change_of_size_is_named_and_the_rest_can_be_read(tmp_path):
    path = two_sizes(tmp_path / "sizes.ts")
    for order in ([20, 3], [3, 20]):                            # whatever is asked for first
        with open_video(path) as opened:
            for i in order:
                if i == 3: assert numbers(opened.frames([3])) == [3]
                else:
                    with pytest.raises(VideoError, match="from 64x48 to 128x96; convert it"):
                        opened.frames([20])


def test_the_limit_in_pixels_is_said_and_can_be_raised(folder, tmp_path, monkeypatch):
    clip, picture = make(folder, "h264.mp4"), tmp_path / "picture.png"
    Image.new("RGB", (64, 48)).save(picture)
    open_video(clip, time_limit=30).frames([0])                 # its helper is older than the limit
    monkeypatch.setenv("VICMAE_MAX_PIXELS", "3071")
    for limit in (None, 30):
        for read in (open_video, read_picture):
            with pytest.raises(MediaError, match="64 x 48 pixels.* set VICMAE_MAX_PIXELS=3072"):
                read(clip if read is open_video else picture, time_limit=limit)
    monkeypatch.setenv("VICMAE_MAX_PIXELS", "3072")
    for limit in (None, 30):
        assert open_video(clip, time_limit=limit).frames([5]).shape == (1, 48, 64, 3)
        assert read_picture(picture, limit).shape == (48, 64, 3)
    for wrong in ("many", "0", "-5", "1e9"):
        monkeypatch.setenv("VICMAE_MAX_PIXELS", wrong)
        with pytest.raises(ValueError, match="VICMAE_MAX_PIXELS=.* whole number"): open_video(clip)
        with pytest.raises(ValueError, match="whole number"): read_picture(picture)


def test_pillows_own_limit_is_never_met(tmp_path, monkeypatch, recwarn):
    picture = tmp_path / "picture.png"
    Image.new("RGB", (64, 48)).save(picture)
    for limit in (2000, 10):                                    # it would warn, it would refuse
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        assert read_picture(picture).shape == (48, 64, 3) and Image.MAX_IMAGE_PIXELS == limit
    assert not recwarn.list


# What must not be started or opened ---------------------------------------------------------------

def test_no_other_program_is_started(tmp_path, monkeypatch):
    """Pillow would hand PostScript to Ghostscript, whatever the file is called."""
    from PIL import EpsImagePlugin
    mark = tmp_path / "called"
    for name in ("gs", "gswin64c", "pdftoppm"):
        script = put(tmp_path, name, f"#!/bin/sh\ntouch {mark}\n".encode())
        script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    body = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n"
    preview = b"\xc5\xd0\xd3\xc6" + struct.pack("<II", 32, len(body)) + bytes(20) + body
    for name, data in (("a.jpg", body), ("b.tif", preview), ("c.png", b"%PDF-1.4\n" + body)):
        with pytest.raises(PictureError, match="PostScript|PDF"):
            read_picture(put(tmp_path, name, data))
        assert not pictures.is_still(tmp_path / name)
    assert not mark.exists()
    assert not {"EPS", "WMF", "FITS", "HDF5", "GRIB", "BUFR"} & set(pictures._formats())


PLAYLISTS = {"hls": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n",
             "master": "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{}\n",
             "concat": "ffconcat version 1.0\nfile {}\n",
             "dash": "<?xml version='1.0'?><MPD><Period><BaseURL>{}</BaseURL></Period></MPD>",
             "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nt=0 0\nm=video 9 RTP/AVP 96\n",
             "pls": "[playlist]\nFile1={}\n",
             "asx": "<asx version='3.0'><entry><ref href='{}'/></entry></asx>",
             "m3u": "{}\n", "imf": "<CompositionPlaylist><Id>{}</Id></CompositionPlaylist>",
             "webm": "<?xml version='1.0'?><MPD><BaseURL>{}</BaseURL></MPD>"}


@pytest.mark.parametrize("kind", PLAYLISTS)
def test_what_a_text_names_is_not_opened(tmp_path, kind):
    """A pipe that nobody writes stands where the text points: whoever opens it hangs."""
    os.mkfifo(tmp_path / "pipe.ts")
    for target in ("pipe.ts", tmp_path / "pipe.ts"):
        for ending in (".mp4", ".mkv", "." + kind):
            path = put(tmp_path, f"list{ending}", PLAYLISTS[kind].format(target).encode())
            with pytest.raises(VideoError, match="playlist|text|web page"): open_video(path)


@pytest.mark.parametrize("name, codec", [
    ("a.mts", "libx264"), ("a.asf", "wmv2"), ("a.mxf", "mpeg2video"), ("a.nut", "ffv1"),
    ("a.ivf", "libvpx"), ("a.dat", "mpeg4")])
def test_other_containers(tmp_path, name, codec):
    """The content decides, whatever the ending."""
    form = {"mts": "mpegts", "dat": "avi"}.get(name[2:])
    with av.open(str(tmp_path / name), "w", format=form) as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for rgb in numbered(6, 48, 64):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        container.mux(stream.encode())
    with open_video(tmp_path / name) as opened:
        assert numbers(opened.frames(range(6))) == list(range(6))


# Pictures ----------------------------------------------------------------------------------------

def test_pictures_of_all_modes(tmp_path):
    ramp = np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8).repeat(4, 0).repeat(4, 1)
    grey = Image.fromarray(ramp)
    for mode, name in (("L", "l.png"), ("LA", "la.png"), ("RGBA", "rgba.png"), ("P", "p.gif"),
                       ("CMYK", "cmyk.jpg"), ("1", "bit.png"), ("RGB", "rgb.webp")):
        grey.convert(mode).save(tmp_path / name)
        rgb = read_picture(tmp_path / name)
        assert rgb.shape == (32, 32, 3) and rgb.dtype == np.uint8
        if mode != "1": assert np.abs(rgb - ramp[..., None].astype(int)).mean() < 4, mode
    Image.fromarray(ramp.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    assert np.array_equal(read_picture(tmp_path / "deep.png")[..., 0], ramp)
    frames = [Image.new("RGB", (8, 8), c) for c in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert read_picture(tmp_path / "moving.gif")[0, 0].tolist() == [255, 0, 0]


RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def with_tags(path: Path, values: np.ndarray, **tags) -> Path:
    """A TIFF; `white_is_zero` and a range may be stated."""
    info = {number: tags[name] for name, number in (("low", 340), ("high", 341)) if name in tags}
    Image.fromarray(values).save(path, tiffinfo=info)
    if tags.get("white_is_zero"):
        data = bytearray(path.read_bytes())
        place = data.index(struct.pack("<HHIH", 262, 3, 1, 1))
        struct.pack_into("<H", data, place + 8, 0)
        path.write_bytes(data)
    return path


def test_deep_pictures_keep_their_brightness(tmp_path):
    """One range for all files of a kind, or the one that a file states."""
    wide, make = RAMP.astype(np.float32), lambda name, v, **t: with_tags(tmp_path / name, v, **t)
    whole = wide.astype(np.uint16)
    files = [make("16.tif", whole * 257), make("16b.tif", (whole * 257).astype(">u2")),
             make("12.tif", whole * 16 + 7), make("12.png", whole * 16 + 7),
             make("16.png", whole * 257),
             make("f.tif", wide / 255), make("i.tif", wide.astype(np.int32)),
             make("k.tif", 273 + wide / 10, low=273.0, high=298.5),
             make("inverted.tif", (255 - whole) * 257, white_is_zero=True),
             put(tmp_path, "4095.pgm", b"P5 16 16 4095 "
                 + (whole.astype(int) * 4095 // 255).astype(">u2").tobytes()),
             put(tmp_path, "rgb.png", deep_rgb(np.repeat((whole * 257)[..., None], 3, 2)))]
    for path in files:
        for limit in (None, 30)[:2 if path.name == "12.png" else 1]:
            off = np.abs(read_picture(path, limit).astype(int) - RAMP[..., None]).max()
            assert off <= (path.suffix == ".pgm"), path.name
    for most, bright in ((65534, 15), (65535, 250)):            # it says what is white, or not
        dark = b"P5 2 1 %d " % most + np.array([0, 4000], ">u2").tobytes()
        assert read_picture(put(tmp_path, "dark.pgm", dark)).max() == bright
    for name, values in (("signed.tif", np.int32([[-5, 9]])), ("neg.tif", np.float32([[-0.5, 1]])),
                         ("inf.tif", np.float32([[0, np.inf]])),
                         ("out.tif", np.float32([[0, 1.01]]))):
        with pytest.raises(PictureError, match="from -?[0-9.]+ to|not finite"):
            read_picture(make(name, values))
    with pytest.raises(PictureError, match="from 0 to 50, and black to white is 0 to 40"):
        read_picture(make("beyond.tif", np.float32([[0, 50]]), low=0.0, high=40.0))


def test_a_still_animation_is_told_from_a_moving_one(tmp_path):
    frames = [Image.new("RGB", (8, 8), c) for c in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "still.gif")
    os.mkfifo(tmp_path / "pipe.gif")
    (tmp_path / "text.gif").write_text("no GIF")
    still = {p.name for p in tmp_path.iterdir() if pictures.is_still(p)}
    assert still == {"still.gif"} and not pictures.is_still(tmp_path / "missing.gif")


def test_pictures_are_turned_as_exif_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.full((10, 20, 3), 9, np.uint8)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_picture(tmp_path / "turned.jpg").shape == (20, 10, 3)


def test_errors_share_a_base():
    assert issubclass(VideoError, MediaError) and issubclass(PictureError, MediaError)
    assert issubclass(MediaError, OSError)
