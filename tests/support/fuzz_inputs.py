"""What people have on their disks, and what became of it on the way: the inputs of
tests/tools/fuzz.py.

Every input follows from (seed, number): its kind from the number, all else from one random stream
and from a stock of sound files that this machine's libraries write. No test is in this file.
"""
import argparse
import csv
import io
import json
import os
import random
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PosixPath
from typing import Any

import numpy as np

KINDS = ("lists", "checkpoints", "runs", "pictures", "clips")
Rng = random.Random


@dataclass
class Input:
    "One input: files in a folder, and what is known about them."

    number: int
    kind: str
    folder: Path
    path: str = ""  # of the file or run that commands are given, in the folder
    how: str = ""  # what was done to it
    intact: bool = False  # damage, if any, lies behind the header
    names: list[str] = field(default_factory=list)  # a refusal names one of these
    truth: dict[str, Any] = field(default_factory=dict)  # what a right answer holds

    def put(self, name: str, data: bytes) -> Path:
        "Write a file of the input."
        path = Path(os.path.join(self.folder, name))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path


# ---- sound files ----

def picture(number: int, height: int = 28, width: int = 40) -> np.ndarray:  # uint8 [H, W, 3]
    "A ramp with some noise: it compresses, and has contrast in each channel."
    x = np.linspace(0, 255, width)[None, :, None] * np.ones((height, 1, 3))
    x[..., 1] = np.linspace(255, 0, height)[:, None]
    noise = np.random.default_rng(number).integers(-20, 20, x.shape)
    return (x + noise).clip(0, 255).astype(np.uint8)


def picture_stock() -> dict[str, tuple[str, bytes]]:  # name -> ending, content
    "A picture in each raster format and mode that Pillow writes here."
    from PIL import Image

    Image.init()
    skip = {"EPS", "PDF", "BUFR", "GRIB", "HDF5", "WMF"}  # no raster, or no writer
    stock, first = {}, Image.fromarray(picture(0))
    ending = {form: end for end, form in sorted(Image.EXTENSION.items(), reverse=True)}
    for form in sorted(set(Image.SAVE) - skip):
        for mode in ("RGB", "L", "P", "RGBA", "CMYK", "1", "LA", "I;16", "I", "F"):
            image = first.convert("L").convert("I;16") if mode == "I;16" else first.convert(mode)
            written = io.BytesIO()
            try:
                image.save(written, form)
            except Exception:  # a format has its own modes, and its own ways to refuse others
                continue
            stock[f"{form} {mode}"] = (ending.get(form, "." + form.lower()), written.getvalue())
    return stock


CODECS = (  # ending, container, codec, pixel format
    (".mp4", "mp4", "libx264", "yuv420p"), (".mp4", "mp4", "mpeg4", "yuv420p"),
    (".mp4", "mp4", "libsvtav1", "yuv420p"), (".mp4", "mp4", "libx265", "yuv420p"),
    (".m4v", "mp4", "libx264", "yuv444p"), (".mkv", "matroska", "libx264", "yuv420p"),
    (".mkv", "matroska", "ffv1", "yuv420p"), (".mkv", "matroska", "libx265", "yuv420p"),
    (".webm", "webm", "libvpx", "yuv420p"), (".webm", "webm", "libvpx-vp9", "yuv420p"),
    (".avi", "avi", "mpeg4", "yuv420p"), (".avi", "avi", "mjpeg", "yuvj420p"),
    (".avi", "avi", "rawvideo", "bgr24"), (".avi", "avi", "huffyuv", "yuv422p"),
    (".mov", "mov", "mjpeg", "yuvj420p"), (".mov", "mov", "png", "rgb24"),
    (".mov", "mov", "prores_ks", "yuv422p10le"), (".mov", "mov", "qtrle", "rgb24"),
    (".ts", "mpegts", "libx264", "yuv420p"), (".ts", "mpegts", "mpeg2video", "yuv420p"),
    (".mpg", "mpeg", "mpeg1video", "yuv420p"), (".flv", "flv", "flv", "yuv420p"),
    (".flv", "flv", "libx264", "yuv420p"), (".wmv", "asf", "wmv2", "yuv420p"),
    (".3gp", "3gp", "h263", "yuv420p"), (".gif", "gif", "gif", "rgb8"),
    (".ogv", "ogg", "libvpx", "yuv420p"),
)


OWN = {"libsvtav1": {"preset": "11", "svtav1-params": "lp=1"},
       "libx265": {"x265-params": "log-level=none:pools=none:frame-threads=1"},
       "libvpx": {"deadline": "realtime"}, "libvpx-vp9": {"deadline": "realtime"}}
EXACT = {"g": "4", "threads": "1", "flags": "+bitexact"}  # the same bytes each time


def encode(container: str, codec: str, pixels: str, count: int = 10,
           height: int = 96, width: int = 128, rate: int = 25) -> bytes:
    "A clip, written by PyAV; the same bytes each time. Raises what PyAV raises."
    import av

    options = {"fflags": "+bitexact"}
    if container in ("mp4", "mov", "3gp"):
        options["movflags"] = "faststart"  # the index before the frames; needs a file by name
    with tempfile.NamedTemporaryFile() as place:
        with av.open(place.name, "w", format=container, options=options) as file:
            stream = file.add_stream(codec, rate=rate, options=OWN.get(codec, {}) | EXACT)
            stream.width, stream.height, stream.pix_fmt = width, height, pixels
            for i in range(count):
                rgb = np.ascontiguousarray(np.roll(picture(1, height, width), 3 * i, 1))
                frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
                file.mux(stream.encode(frame.reformat(format=pixels)))
            file.mux(stream.encode())
        if hasattr(os, "sched_setscheduler"):  # SVT-AV1 makes root's thread a real-time one
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        return Path(place.name).read_bytes()


def clip_stock() -> dict[str, tuple[str, bytes]]:
    "A clip in each container and codec of the list that PyAV has here."
    import av

    av.logging.set_level(None)
    stock = {}
    for ending, container, codec, pixels in CODECS:
        try:
            stock[f"{container} {codec} {pixels}"] = (ending, encode(container, codec, pixels))
        except Exception:  # another build of PyAV has other codecs
            continue
    return stock


def small_model(seed: int = 0):
    "A ViC-MAE of 14,000 weights."
    import torch

    from vicmae.model.vicmae import ViCMAE

    torch.manual_seed(seed)
    sizes = dict(embed_dim=16, depth=1, num_heads=2, decoder_embed_dim=16, decoder_depth=1,
                 decoder_num_heads=2, projector_hidden_dim=16, projector_out_dim=8)
    return ViCMAE(img_size=16, patch_size=8, **sizes)


def pickled(content: Any, old: bool = False) -> bytes:
    "What torch.save writes."
    import torch

    written = io.BytesIO()
    torch.save(content, written, _use_new_zipfile_serialization=not old)
    return written.getvalue()


def checkpoint_stock(folder: Path, runs: dict[str, dict[str, bytes]]) -> dict:
    "Checkpoints of our own and of the authors' kind."
    from vicmae.train.weights import save_model

    model = small_model()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    save_model(folder / "model.safetensors", model)
    args = argparse.Namespace(mask_ratio=0.75, norm_pix_loss=True)
    whole = {"model": state, "optimizer": {"state": {}, "param_groups": []}, "epoch": 3}
    newest = max(n for n in runs["finetune"] if n.startswith("run/checkpoints/step_")
                 and n.endswith(".safetensors"))
    return {
        "ours": (".safetensors", (folder / "model.safetensors").read_bytes()),
        "classifier": (".safetensors", runs["finetune"]["run/classifier.safetensors"]),
        "classifier of a step": (".safetensors", runs["finetune"][newest]),
        "authors": (".pth", pickled(whole | {"args": args})),
        "weights": (".pth", pickled(state)),
        "old format": (".pth", pickled({"model": state}, old=True)),
        "prefix": (".pt", pickled({"state_dict": {f"module.{k}": v for k, v in state.items()}})),
    }


SPLITS = {"train": 3, "val": 2}
PRETRAIN = ["pretrain", "--recipe", "debug", "--data", "data/train", "--val-data", "data/val",
            "--out", "run", "--img-size", "16", "--projector-hidden-dim", "16",
            "--projector-out-dim", "8", "--batch-size", "4", "--checkpoint-every", "1",
            "--keep", "1", "--eval-every", "1", "--no-tensorboard", "--time-limit", "5",
            "--cache", "none", "--precision", "fp32"]
FINETUNE = ["finetune", "--recipe", "finetune_tiny_objects", "--init", "model.safetensors",
            "--data", "data/train", "--val-data", "data/val", "--out", "run", "--img-size", "16",
            "--batch-size", "4", "--checkpoint-every", "1", "--keep", "1", "--eval-every", "1",
            "--no-tensorboard", "--cache", "none", "--precision", "fp32", "--num-workers", "0"]
FIXED = {"seconds": 0.5, "data_s": 0.1, "other_s": 0.1, "pairs_per_s": 8.0, "samples_per_s": 8.0,
         "time": "2026-01-01T00:00:00+0000"}  # what the clock has put into a run's files


def data_folders(folder: Path, clips: dict, pictures: dict) -> None:
    "A few labelled files, one of them broken."
    clip, still = clips["avi mjpeg yuvj420p"][1], pictures["PNG RGB"][1]
    for split, count in SPLITS.items():
        for name in ("ants", "bees"):
            for i in range(count):
                ending, data = (".avi", clip) if i == 0 else (".png", still)
                place = folder / "data" / split / name / f"{name}{i}{ending}"
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(data)
    (folder / "data/train/ants/broken.png").write_bytes(b"no picture at all\n" * 9)


def settle(name: str, data: bytes) -> bytes:
    "A file of a run without what the clock has put into it."
    if not name.endswith((".json", ".jsonl")):
        return data
    lines = data.decode().splitlines() if name.endswith("l") else [data.decode()]
    rows = [json.loads(line) for line in lines]
    rows = [{k: FIXED.get(k, v) for k, v in row.items()} for row in rows]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


class Stock:
    "Sound files of all kinds; made once, in a folder that the inputs may link to."

    def __init__(self, folder: Path, run: Callable[[list[str], Path], None]):
        self.folder = folder
        self.pictures, self.clips = picture_stock(), clip_stock()
        data_folders(folder, self.clips, self.pictures)
        from vicmae.train.weights import save_model

        save_model(folder / "model.safetensors", small_model())
        self.runs = {}
        for args in (PRETRAIN, FINETUNE):
            place = folder / args[0]
            place.mkdir()
            for name in ("data", "model.safetensors"):
                (place / name).symlink_to(folder / name)
            run([*args, "--steps", "2"], place)
            found = sorted(f for f in (place / "run").rglob("*") if f.is_file())
            found = [f for f in found if f.suffix in (".json", ".jsonl", ".safetensors", ".optim")]
            self.runs[args[0]] = {f"run/{f.relative_to(place / 'run')}": f.read_bytes()
                                  for f in found}
            self.runs[args[0]] = {n: settle(n, b) for n, b in self.runs[args[0]].items()}
        self.checkpoints = checkpoint_stock(folder, self.runs)

    def any(self, rng: Rng) -> bytes:
        "Some sound file of any kind."
        stock = rng.choice([self.pictures, self.clips, self.checkpoints])
        return stock[rng.choice(sorted(stock))][1]


# ---- damage ----

def header_end(data: bytes) -> int:
    "Where the content begins: behind the marks of known formats, else after a few bytes."
    if data[:1] != b"P" and data[8:9] == b"{":  # safetensors
        return min(8 + struct.unpack("<Q", data[:8])[0], len(data))
    at = [data.find(mark) + 8 for mark in (b"IDAT", b"\xff\xda", b"mdat", b"\x1fC\xb6u", b"movi")
          if mark in data]
    return min(at, default=min(512, len(data) // 4))


def extreme(rng: Rng) -> bytes:
    "A number at the end of its range, as a header might hold it."
    size = rng.choice((1, 2, 4, 8))
    top = 1 << 8 * size
    value = rng.choice((0, 1, top - 1, top // 2, top // 2 - 1, top // 4, min(70_000, top - 2)))
    return value.to_bytes(size, rng.choice(("big", "little")))


def damage(data: bytes, rng: Rng, start: int = 0, other: bytes = b"") -> tuple[bytes, str]:
    "Bytes with one kind of damage, from `start` on."
    head, x = data[:start], bytearray(data[start:])
    early = rng.random() < 0.5  # where headers are
    at = int(len(x) * rng.random() ** (4 if early and not start else 1)) if x else 0
    span = rng.choice((1, 4, 64, 1000))
    how = rng.choice(("bits", "cut", "zeros", "noise", "inserted zeros", "lost", "repeated",
                      "spliced", "extreme", "extreme"))
    if how == "bits":
        for _ in range(rng.choice((1, 8, 100))):
            if x:
                x[int(len(x) * rng.random() ** (4 if early else 1))] ^= 1 << rng.randrange(8)
    elif how == "cut":
        del x[at:]
    elif how == "zeros":
        x[at:at + span] = bytes(len(x[at:at + span]))
    elif how == "noise":
        x[at:at + span] = rng.randbytes(len(x[at:at + span]))
    elif how == "inserted zeros":
        x[at:at] = bytes(span)
    elif how == "lost":
        del x[at:at + span]
    elif how == "repeated":
        x[at:at] = x[at:at + span]
    elif how == "spliced":
        x[at:] = other[int(len(other) * rng.random()):]
    else:
        for place in [at, *(rng.randrange(len(x) or 1) for _ in range(rng.choice((0, 3))))]:
            number = extreme(rng)
            x[place:place + len(number)] = number
    return head + bytes(x), f"{how} at {start + at}"


FOREIGN = {
    "empty": b"", "zeros": bytes(5000), "page": b"<!DOCTYPE html><html>404</html>",
    "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n",
    "json": b'{"error": "not found"}', "text": b"call me later\n" * 20, "newlines": b"\n" * 50,
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n",
    "pdf": b"%PDF-1.4\n1 0 obj\n<< /Type /Catalog >>\nendobj\ntrailer\n<< /Root 1 0 R >>\n%%EOF\n",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
    "playlist": b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\npipe.ts\n#EXT-X-ENDLIST\n",
    "concat": b"ffconcat version 1.0\nfile pipe.ts\n", "gzip": b"\x1f\x8b\x08" + bytes(50),
    "heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(3000), "psd": b"8BPS\0\1" + bytes(200),
    "wmf": b"\xd7\xcd\xc6\x9a\0\0\0\0\0\0@\0@\0`\0\0\0\0\0QW\1\0\t\0\0\3" + bytes(90),
    "zip": b"PK\3\4" + bytes(26) + b"PK\5\6" + bytes(18), "elf": b"\x7fELF" + bytes(500),
    "pickle": b"\x80\x02cposix\nsystem\nX\x08\0\0\0echo owned\x85R.",
}


def foreign(rng: Rng, stock: Stock) -> tuple[bytes, str]:
    "Content of another kind, or of none."
    how = rng.choice([*FOREIGN, "noise", "noise", "another", "another", "another"])
    if how == "noise":
        return rng.randbytes(rng.choice((1, 9, 200, 50_000))), how
    return (stock.any(rng), how) if how == "another" else (FOREIGN[how], how)


STEMS = ("x", "x", "x", "x", "my file", "it's", "caf\u00e9", "\u65e5\u672c", "caf\udce9", "-dash",
         "a$b^c_d", "a, b", "%03d", "[1]", "a:b", "x" * 200)


# ---- JSON ----

ODD = (None, True, 0, -1, 1.5, 10**30, -(2**63), float("nan"), float("inf"), "", "x", "nan",
       "\ud800", "x" * 9000, "../..", "\x1b[31mred", 1e308, 3.0, "3", [], [1], [[]], [None] * 99,
       {}, {"a": 1})


def shake(value: Any, rng: Rng) -> Any:
    "A JSON value of which one part is another one, gone or new."
    inner = isinstance(value, (dict, list)) and value and rng.random() < 0.85
    if not inner:
        return rng.choice(ODD)
    value = dict(value) if isinstance(value, dict) else dict(enumerate(value))
    key = rng.choice(list(value))
    do = rng.random()
    if do < 0.2:
        del value[key]
    elif do < 0.3:
        value["new" if isinstance(key, str) else len(value)] = rng.choice(ODD)
    else:
        value[key] = shake(value[key], rng)
    return value if isinstance(key, str) else list(value.values())


def odd_json(value: Any, rng: Rng) -> tuple[str, str]:
    "JSON text that is valid and not what was meant, or nearly valid."
    how = rng.choice(("shaken",) * 6 + ("deep", "long number", "twice", "comma", "quotes", "cut",
                                        "not a dict", "escaped"))
    text = json.dumps(value)
    if how == "shaken":
        for _ in range(rng.choice((1, 1, 3))):
            value = shake(value, rng)
        text = json.dumps(value)
    elif how == "deep":
        text = rng.choice(("[", '{"a":')) * 100_000
    elif how == "long number":
        text = text.replace("1", "1" * 5000, 1)
    elif how == "twice":
        text += text
    elif how == "comma":
        text = text.replace(", ", ",,", 1).replace("}", ",}")
    elif how == "quotes":
        text = text.replace('"', "'")
    elif how == "cut":
        text = text[:rng.randrange(len(text) or 1)]
    elif how == "not a dict":
        text = json.dumps(rng.choice(ODD))
    else:
        text = text.replace("a", "\\u0000", 1)
    return text, how


# ---- lists ----

LABELS = (("0", "1", "2"), ("cat", "dog"), ("air drumming", "arm wrestling"), ("10", "9", "2"),
          ("drinking, beer", "crane; bird"), ('he said "hi"', "it's"), ("\u00e9t\u00e9", "\u732b"),
          ("01", "1"), ("0.0", "10.0"), ("1", "2", ""), ("cat", "nan"), ("cat", "-1"),
          ("cat", "None"), ("Cat", "cat"), ("=1+1", "@x"), ("x" * 3000, "y"), ("cat", "cat "),
          ("1e5", "2"), ("0x1", "2"), ("\u0661", "1"), ("\u00b2", "1"), ("true", "false"))
FILES = ("v{}", "v{}", "sub/v{}", "my clip {}", "run, jump {}", "a;b {}", "it's {}", 'six" {}',
         "caf\u00e9 {}", "\u65e5\u672c{}", "-v{}", "#v{}", "v{} 7", "a  b{}", "./v{}")
NONE = ("", "-1", "nan", "none", "null", "na", "n/a", "?", "unknown")


def rows_of(rng: Rng) -> list[tuple[str, str]]:
    "Names and labels of a list."
    names, labels = rng.choice(FILES), rng.choice(LABELS)
    endings = rng.choice(((".png",), (".avi",), (".png", ".avi"), (".JPG",)))
    return [(names.format(i) + rng.choice(endings), labels[i % len(labels)])
            for i in range(rng.randint(1, 8))]


def table_text(rows: list[tuple[str, str]], rng: Rng) -> tuple[str, str, bool]:
    "A list as text, what is special about it, and whether it can be read in one way only."
    mark = rng.choice((",", ",", ";", "\t", " ", "|"))
    head = rng.choice(("", "", "path,label", "path,label", "Path,Label", "path,label,split",
                       ",path,label", "path,frames,label", "file,class", "label,path"))
    cells = [list(row) for row in rows]
    if head == "path,label,split":
        cells = [[*row, rng.choice(("train", "val"))] for row in cells]
    elif head == ",path,label":
        cells = [[str(i), *row] for i, row in enumerate(cells)]
    elif head == "path,frames,label":
        cells = [[a, "3", b] for a, b in cells]
    elif head == "label,path":
        cells = [[b, a] for a, b in cells]
    bare = mark == " " or rng.random() < 0.3
    cells = [head.split(",")] * bool(head) + cells
    if bare:
        text = "\n".join(mark.join(row) for row in cells) + "\n"
    else:
        written = io.StringIO()
        csv.writer(written, delimiter=mark, lineterminator="\n", quoting=rng.choice(
            (csv.QUOTE_MINIMAL, csv.QUOTE_ALL))).writerows(cells)
        text = written.getvalue()
    clear = mark in ",;\t" and head in ("path,label", "Path,Label", "path,label,split") and not (
        bare and any(c in cell for row in rows for cell in row for c in ',;\t"'))
    return text, f"{'bare' if bare else 'quoted'} {mark!r} header {head!r}", clear


def list_input(item: Input, rng: Rng, stock: Stock) -> None:
    "A list, or a .jsonl, beside its files; then perhaps damage."
    rows = rows_of(rng)
    for name, _ in rows:
        clip, still = stock.clips["avi mjpeg yuvj420p"], stock.pictures["PNG RGB"]
        item.put(name, (clip if name.endswith("avi") else still)[1])
    encoding = rng.choice(("utf-8",) * 5 + ("utf-8-sig", "utf-16", "utf-16-le", "cp1252"))
    ending = rng.choice((".csv", ".csv", ".tsv", ".txt", ".jsonl"))
    clear = True
    if ending == ".jsonl":
        lines = [json.dumps({"path": a, "label": b}) for a, b in rows]
        how = "jsonl"
        if not item.intact:
            at = rng.randrange(len(lines))
            lines[at], how = odd_json(json.loads(lines[at]), rng)
            clear, encoding = False, "utf-8"
        text = "\n".join(lines) + "\n"
    else:
        text, how, clear = table_text(rows, rng)
    do = rng.random() if ending != ".jsonl" else 1
    if do < 0.1:
        rows = rows + rows[:1] if do < 0.05 else rows
        text, how, clear = text + text.splitlines()[-1], how + ", last row twice", False
    elif do < 0.2:
        text, how = text.replace("\n", "\n\n"), how + ", blank lines"
    elif do < 0.25:
        text, how, clear = "# a note\n" + text, how + ", a comment", False
    elif do < 0.3:
        text, how, clear = "".join(text.splitlines(True)[:1]), how + ", only a line", False
    elif do < 0.35:
        (item.folder / rows[0][0]).unlink()
        how, clear = how + ", a file is gone", False
    text = text.replace("\n", rng.choice(("\n", "\n", "\r\n", "\r")))
    data = text.encode(encoding, "replace" if encoding == "cp1252" else "surrogatepass")
    if encoding == "cp1252" and any(c > "\u00ff" for c in text):
        clear = False
    if rng.random() < (0.6 if item.intact else 0.3):
        first = len(text.split("\n")[0].encode(encoding, "replace")) if item.intact else 0
        data, what = damage(data, rng, min(first, len(data)), stock.any(rng)[:3000])
        how, clear = f"{how}, {what}", False
    elif not item.intact and rng.random() < 0.15:
        data, how = foreign(rng, stock)
        clear = False
    if rng.random() < 0.2:
        names = [b for _, b in rows] if rng.random() < 0.5 else ["a", "a", ""]
        item.put("classes.txt", "\n".join(names).encode(rng.choice(("utf-8", "utf-16"))))
        how, clear = how + ", classes.txt", False
    item.path, item.how = "list" + ending, f"{how}, {encoding}"
    item.put(item.path, data)
    item.names = [item.path, "classes.txt", *{Path(name).name for name, _ in rows}]
    item.truth = {"rows": rows, "clear": clear}


# ---- checkpoints ----

def with_metadata(data: bytes, rng: Rng) -> tuple[bytes, str]:
    "A safetensors file whose header says something else."
    size = struct.unpack("<Q", data[:8])[0]
    header, how = json.loads(data[8:8 + size]), ""
    notes = header["__metadata__"]
    if rng.random() < 0.8:
        key = rng.choice(("model", "model", "model", "config", "kind", "step", "crc32"))
        if key in ("model", "config"):
            notes[key], how = odd_json(json.loads(notes[key]), rng)
        else:
            notes[key], how = rng.choice(("", "x", "-1", "nan", "9" * 5000, "classifier")), "text"
        how = f"metadata {key} {how}"
    else:
        key = rng.choice(sorted(set(header) - {"__metadata__"}))
        header[key], how = shake(header[key], rng), f"entry {key} shaken"
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + size:], how


def odd_pickle(rng: Rng) -> tuple[bytes, str]:
    "A .pth that holds something near to a checkpoint."
    import torch

    state = {k: v.clone() for k, v in small_model().state_dict().items()}
    name = rng.choice(sorted(state))
    odd = (None, "text", 3, 2.5, [], {}, torch.zeros(()), torch.zeros(0), torch.zeros(3, 2),
           torch.ones(5, dtype=torch.bool), torch.zeros(2, 2, dtype=torch.complex64),
           torch.full_like(state[name], float("nan")), torch.full_like(state[name], float("inf")),
           state[name].half(), state[name].to(torch.int64), state[name][None],
           torch.zeros(1).expand(1 << 40))
    thing = rng.choice(odd)
    what = f"{name} is {type(thing).__name__}" + f" {getattr(thing, 'shape', '')}"[:60]
    values = (None, "x", -1, 5.0, float("nan"), [0.5], True, 10**9)
    args = argparse.Namespace(mask_ratio=rng.choice(values), norm_pix_loss=rng.choice(values))
    content = rng.choice((
        ("a weight: " + what, {"model": state | {name: thing}}),
        ("a weight: " + what, state | {name: thing}),
        ("gone: " + name, {k: v for k, v in state.items() if k != name}),
        (f"model is {type(thing).__name__}", {"model": thing}),
        (f"all is {type(thing).__name__}", thing),
        (f"arguments {args}", {"model": state, "args": args}),
        ("arguments are a list", {"model": state, "args": [1]}),
        ("NumPy beside", {"model": state, "best": np.float64(81.2)}),
        ("a path beside", {"model": state, "out": PosixPath("/x")}),
        ("wrapped thrice", {"state_dict": {"model": {"module": state}}}),
        ("prefixes", {f"module._orig_mod.{k}": v for k, v in state.items()}),
        ("some prefixes", {(f"module.{k}" if len(k) % 2 else k): v for k, v in state.items()}),
        ("numbers as names", {i: v for i, v in enumerate(state.values())}),
        ("two models", {"model": state, "model_ema": state, "teacher": {}}),
    ))
    return pickled(content[1], old=rng.random() < 0.2), content[0]


def checkpoint_input(item: Input, rng: Rng, stock: Stock) -> None:
    "A checkpoint, damaged or strange."
    base = rng.choice(sorted(stock.checkpoints))
    ending, data = stock.checkpoints[base]
    do, item.how = rng.random(), base
    # all but the oldest format hold a checksum of their weights
    item.truth["summed"] = (item.intact or do < 0.35) and base != "old format"
    if item.intact:
        data, how = damage(data, rng, header_end(data), stock.any(rng))
    elif do < 0.35:
        data, how = damage(data, rng, 0, stock.any(rng))
    elif do < 0.6:
        base = rng.choice([b for b in stock.checkpoints if stock.checkpoints[b][0][1] == "s"])
        item.how, (ending, data) = base, stock.checkpoints[base]
        data, how = with_metadata(data, rng)
    elif do < 0.85:
        (data, how), ending, item.how = odd_pickle(rng), ".pth", ""
    else:
        data, how = foreign(rng, stock)
    if rng.random() < 0.2:
        ending = rng.choice((".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar", "", ".PTH"))
    item.path, item.how = rng.choice(STEMS) + ending, f"{item.how} {how}, {ending or 'no ending'}"
    if rng.random() < 0.1:
        item.path = "run/checkpoints/step_00000003.safetensors"
    item.put(item.path, data)
    item.path = "run" if item.path[:4] == "run/" else item.path
    item.names = [item.path, os.path.basename(item.path)]
    item.put("look.png", stock.pictures["PNG RGB"][1])


# ---- runs ----

RUN_FILES = ("config.json", "skipped.jsonl", "metrics.jsonl", "evals.jsonl", "status.json")


def run_input(item: Input, rng: Rng, stock: Stock) -> None:
    "The folder of a real run; one or two of its small files are not what they were."
    kind = rng.choice(sorted(stock.runs))
    files = dict(stock.runs[kind])
    hows, changed = [], rng.sample(RUN_FILES, rng.choice((1, 1, 1, 2)))
    for name in changed:
        data = files.get("run/" + name, b'{"step": 1, "x": 2}\n')
        do = rng.random()
        if do < 0.1 and not item.intact:
            files.pop("run/" + name, None)
            hows.append(f"{name} gone")
            continue
        if item.intact or do < 0.6:  # lines of JSON, one of them odd; the first is sound
            lines = data.decode().splitlines()
            at = rng.randrange(item.intact and len(lines) > 1, len(lines))
            lines[at], how = odd_json(json.loads(lines[at]), rng)
            data = ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")
        elif do < 0.85:
            data, how = damage(data, rng, 0, stock.any(rng)[:3000])
        else:
            data, how = foreign(rng, stock)
        files["run/" + name] = data
        hows.append(f"{name} {how}")
    for name, data in files.items():
        item.put(name, data)
    for name in ("data", "model.safetensors"):
        (item.folder / name).symlink_to(stock.folder / name)
    item.path, item.how, item.names = "run", f"{kind}: {', '.join(hows)}", [*changed, "run"]
    item.truth = {"task": kind, "changed": changed, "files": {
        name: files.get("run/" + name, b"") for name in RUN_FILES}}


# ---- pictures ----

def chunk(name: bytes, data: bytes) -> bytes:
    "A chunk of a PNG."
    from zlib import crc32

    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", crc32(name + data))


def odd_picture(rng: Rng) -> tuple[str, bytes, str, dict]:
    "A valid picture of a rare kind: ending, content, what it is, what must hold."
    from zlib import compress

    from PIL import Image

    how = rng.choice(("shape", "exif", "deep", "animated", "huge", "text", "progressive"))
    written = io.BytesIO()
    if how == "shape":
        h, w = rng.choice(((1, 1), (1, 900), (900, 1), (2, 3), (31, 33)))
        Image.fromarray(picture(2, h, w)).save(written, "PNG")
        return ".png", written.getvalue(), f"{h}x{w}", {"shape": [h, w]}
    if how == "exif":
        tags = Image.Exif()
        tags[0x0112] = rng.choice((1, 2, 3, 4, 5, 6, 7, 8, 0, 9, 60000, "9", b"\xff"))
        try:
            Image.fromarray(picture(3)).save(written, "JPEG", exif=tags)
        except Exception:
            Image.fromarray(picture(3)).save(written, "JPEG")
        return ".jpg", written.getvalue(), f"EXIF {tags[0x0112]!r}", {}
    if how == "deep":  # more than 8 bits
        top, kind = rng.choice(((1, "f4"), (255, "f4"), (65535, "f4"), (4095, "u2"), (65535, "u2"),
                                (255, "i4"), (65535, "i4"), (1 << 30, "i4"), (-1, "f4")))
        grey = (np.tile(np.linspace(0, 1, 40), (28, 1)) * top).astype(kind)
        if kind == "f4" and rng.random() < 0.4:
            grey[3, 3:6] = [np.nan, np.inf, -np.inf]
        Image.fromarray(grey).save(written, "TIFF")
        return ".tif", written.getvalue(), f"{kind} up to {top}", {"contrast": True}
    if how == "huge":
        side = rng.choice((3000, 12_000, 60_000, 2**31 - 1))
        head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
        data = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", compress(bytes(9000)))
        return ".png", data + chunk(b"IEND", b""), f"says {side} pixels a side", {}
    if how == "text":
        Image.fromarray(picture(4)).save(written, "PNG")
        data, bomb = written.getvalue(), compress(bytes(30_000_000))
        data = data[:33] + chunk(b"zTXt", b"a\0\0" + bomb) + data[33:]
        return ".png", data, "a text of 30 MB", {}
    if how == "animated":
        form = rng.choice(("GIF", "PNG", "WEBP", "TIFF"))
        rest = [Image.fromarray(picture(i)) for i in range(5, 5 + rng.choice((1, 3)))]
        Image.fromarray(picture(4)).save(written, form, save_all=True, append_images=rest)
        return "." + form.lower(), written.getvalue(), "animated", {}
    Image.fromarray(picture(4)).save(written, "JPEG", progressive=True, quality=rng.choice((1, 99)))
    return ".jpg", written.getvalue(), "progressive", {"shape": [28, 40]}


COMMON = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "MPO")
KNOWN = (".jpg", ".png", ".JPEG", ".webp", ".tif", ".bmp", ".gif", ".ppm")


def picture_input(item: Input, rng: Rng, stock: Stock) -> None:
    "A picture, damaged or strange, or something else of that name."
    name = rng.choice(sorted(stock.pictures))
    ending, data = stock.pictures[name]
    do = rng.random()
    if item.intact:
        data, how = damage(data, rng, header_end(data), stock.any(rng))
    elif do < 0.5:
        data, how = damage(data, rng, 0, stock.any(rng))
    elif do < 0.6:
        form, mode = name.split()
        plain = mode not in ("I", "F", "I;16")  # these may be refused, with a word on their range
        item.truth = {"shape": [28, 40], "sound": plain} if form in COMMON else {}
        how = "as it is"
    elif do < 0.8:
        ending, data, how, item.truth = odd_picture(rng)
        name = ""
    else:
        (data, how), name = foreign(rng, stock), ""
        ending = rng.choice(KNOWN)
    if rng.random() < 0.3:
        ending = rng.choice(KNOWN)
    item.path, item.how = rng.choice(STEMS) + ending, f"{name} {how}, {ending}"
    item.put(item.path, data)
    item.names = [os.path.basename(item.path)]


# ---- clips ----

def odd_clip(rng: Rng) -> tuple[str, bytes, str, dict]:
    "A valid clip of a rare kind."
    how = rng.choice(("few", "shape", "fast", "glued", "changes", "sound"))
    if how == "few":
        count = rng.choice((1, 2, 3))
        return ".mp4", encode("mp4", "mpeg4", "yuv420p", count), f"{count} frames", {}
    if how == "shape":
        h, w = rng.choice(((2, 2), (16, 500), (34, 18), (400, 16)))
        data = encode("matroska", "ffv1", "bgr0", 4, h, w)
        return ".mkv", data, f"{h}x{w}", {"shape": [h, w], "frames": 4}
    if how == "fast":
        data = encode("mp4", "libx264", "yuv420p", 6, rate=rng.choice((1, 1000)))
        return ".mp4", data, "a rate", {"frames": 6}
    if how == "glued":
        data = encode("mpegts", "mpeg2video", "yuv420p", 5)
        return ".ts", data * 2, "glued to itself", {}
    if how == "changes":
        sizes = rng.sample(((96, 128), (48, 64)), 2)
        data = [encode("mpegts", "mpeg2video", "yuv420p", 5, *size) for size in sizes]
        return ".ts", b"".join(data), "another size within", {}
    import av

    written = io.BytesIO()
    with av.open(written, "w", format="mp4", options={"fflags": "+bitexact"}) as file:
        stream = file.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        for packet in [*stream.encode(frame), *stream.encode()]:
            file.mux(packet)
    return ".mp4", written.getvalue(), "sound only", {}


MOVIES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".ts", ".gif", ".flv", ".mpg")


def clip_input(item: Input, rng: Rng, stock: Stock) -> None:
    "A clip, damaged or strange, or something else of that name."
    name = rng.choice(sorted(stock.clips))
    ending, data = stock.clips[name]
    do = rng.random()
    if item.intact:
        data, how = damage(data, rng, header_end(data), stock.any(rng))
    elif do < 0.6:
        data, how = damage(data, rng, 0, stock.any(rng))
    elif do < 0.68:
        size = [96, 139] if "h263" in name else [96, 128]  # pixels of H.263 are 12:11
        how, item.truth = "as it is", {"shape": size, "frames": 10, "sound": True}
    elif do < 0.82:
        ending, data, how, item.truth = odd_clip(rng)
        name = ""
    else:
        (data, how), name = foreign(rng, stock), ""
        ending = rng.choice(MOVIES)
    if rng.random() < 0.2:
        ending = rng.choice(MOVIES)
    item.path, item.how = rng.choice(STEMS) + ending, f"{name} {how}, {ending}"
    item.put(item.path, data)
    item.names = [os.path.basename(item.path)]
    os.mkfifo(item.folder / "pipe.ts")  # whoever opens what a playlist names, hangs


MAKERS = dict(zip(KINDS, (list_input, checkpoint_input, run_input, picture_input, clip_input)))


def kind_of_number(number: int) -> str:
    "Lists, checkpoints, run files, pictures and clips take turns."
    return KINDS[number % len(KINDS)]


def make_input(seed: int, number: int, folder: Path, stock: Stock) -> Input:
    "The input of a number, in a folder that is empty; the same wherever and whenever it is made."
    rng = random.Random(f"{seed}/{number}")
    item = Input(number, kind_of_number(number), folder)
    item.intact = number // len(KINDS) % 3 == 0
    MAKERS[item.kind](item, rng, stock)
    return item
