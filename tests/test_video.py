"""Readers give exactly the frames asked for; bad files give one sentence; nothing hangs.

`python -m pytest tests/test_video.py -s -k table` prints what each kind of bad file gets.
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
from waiting import PATIENCE

from vicmae import video
from vicmae.video import MediaError, PictureError, VideoError, open_video, read_picture


@pytest.fixture(autouse=True)
def alarm():
    """No test may hang."""
    def ring(*_): raise TimeoutError("the test took more than 60 s")
    signal.signal(signal.SIGALRM, ring)
    signal.alarm(60)
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
          times=None, mux=None, streams=1) -> Path:
    """A video of numbered frames; a second stream is smaller and shorter."""
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
            for i, rgb in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
                if times is not None: frame.pts, frame.time_base = int(times[i]), Fraction(1, 1000)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
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
    code = ("import os, sys; from vicmae.video import open_video\n"
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
    os.kill(video._HELPERS["pyav"].process.pid, signal.SIGSTOP)
    start = time.monotonic()
    with pytest.raises(VideoError, match="h264.mp4 was not read within 1 s"): opened.frames([5])
    assert time.monotonic() - start < 60
    assert numbers(opened.frames([5, 6])) == [5, 6]           # a new helper reads on


@pytest.mark.clocks
def test_time_limit_ends_a_reader_that_hangs_in_c(folder, tmp_path, monkeypatch):
    """A pipe that nobody writes hangs ffmpeg for ever, if one opens it: here the helper does."""
    (tmp_path / "sitecustomize.py").write_text("import stat\nstat.S_ISFIFO = lambda mode: False\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(video, "_HELPERS", {})
    pipe = tmp_path / "pipe.mp4"
    os.mkfifo(pipe)
    start = time.monotonic()
    with pytest.raises(VideoError, match="pipe.mp4 was not read within 0.5 s"):
        open_video(pipe, time_limit=0.5)
    assert time.monotonic() - start < 120 and not video._HELPERS


@pytest.mark.clocks
def test_a_crash_in_the_helper_is_an_error(folder):
    opened = open_video(make(folder, "h264.mp4"), time_limit=20)
    os.kill(video._HELPERS["pyav"].process.pid, signal.SIGSEGV)
    with pytest.raises(VideoError, match="made its reader crash"): opened.frames([5])
    assert numbers(opened.frames([5])) == [5]


def test_import_is_light():
    code = ("import sys; import vicmae.video; "
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
        d, "cut_front.mp4", (lambda b: b[:len(b) * 3 // 4])(bytes_of(d, size=(240, 320), **FAST))),
    "cut off, fragments": lambda d: put(d, "cut_fragments.mp4", (lambda b: b[:len(b) * 3 // 4])(
        bytes_of(d, size=(240, 320), mux={"movflags": "frag_keyframe+empty_moov"}))),
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


def test_pictures_are_turned_as_exif_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.full((10, 20, 3), 9, np.uint8)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_picture(tmp_path / "turned.jpg").shape == (20, 10, 3)


def test_errors_share_a_base():
    assert issubclass(VideoError, MediaError) and issubclass(PictureError, MediaError)
    assert issubclass(MediaError, OSError)
