"""Lists, folders and names as people have them: what is read, what is said, what is refused."""

import io
import json
import os
import sys

import pytest
from PIL import Image

from vicmae.media.files import Sample, find_samples
from vicmae.media.records import ErrorReport, error_entry
from vicmae.media.records import to_json
from vicmae.evaluation.labelled import open_labelled, splits_of
from vicmae.errors import DataError
from vicmae.media.lists import kind_of, no_label, read_table, split_data, unread


@pytest.fixture
def put(tmp_path):
    """put(path, text): a file, empty unless told what it holds; put.root is the folder."""

    def write(path, data=b""):
        place = os.path.join(os.fsencode(tmp_path), os.fsencode(path))
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with open(place, "wb") as file:
            file.write(data if isinstance(data, bytes) else data.encode())
        return tmp_path / os.fsdecode(path)

    write.root = tmp_path
    return write


def rows(table):
    return [(row.get("path"), row.get("label")) for _, row in table]


AB = [("v/a.mp4", "0"), ("v/b.mp4", "1")]
NAMED = [("v/a, b.mp4", "x"), ("v/c.mp4", "y z")]
READ = {
    "commas": ("v/a.mp4,0\nv/b.mp4,1\n", AB),
    "blanks": ("v/a.mp4 0\nv/b.mp4 1\n", AB),
    "tabs, a header": ("path\tlabel\nv/a.mp4\t0\nv/b.mp4\t1\n", AB),
    "semicolons, mark, Windows": ("\ufeffPath;Label\r\nv/a.mp4;0;\r\nv/b.mp4;1\r\n", AB),
    "Excel says its sign": ("sep=;\nfile;class\nv/a.mp4;0\nv/b.mp4;1\n", AB),
    "index column": (",path,label\n0,v/a.mp4,0\n1,v/b.mp4,1\n", AB),
    "remarks": ("# mine\n# too\npath,label\nv/a.mp4,0\n\nv/b.mp4,1\n", AB),
    "columns in another order": ("label,split,path\n0,train,v/a.mp4\n1,val,v/b.mp4\n", AB),
    "header and blanks": ("path frames label\nv/a.mp4 3 0\nv/b.mp4 2 1\n", AB),
    "frames and labels": ("v/a.mp4 30 0\nv/b.mp4 25 1\n", AB),
    "frames and labels, commas": ("v/a.mp4,30,0\nv/b.mp4,25,1\n", AB),
    "old Mac": ("path,label\rv/a.mp4,0\rv/b.mp4,1\r", AB),
    "commas in names, semicolons": ("v/a, b.mp4;x\nv/c.mp4;y z\n", NAMED),
    "commas in names, blanks": ("v/a, b.mp4 x\nv/c.mp4 y z\n", NAMED),
    "commas in names, quotes": ('"v/a, b.mp4",x\nv/c.mp4, "y z"\n', NAMED),
    "commas in names, tabs": ("v/a, b.mp4\tx\nv/c.mp4\ty z\n", NAMED),
    "frames and words": ("v/a, b.mp4 30 x\nv/c.mp4 25 y z\n", NAMED),
    "only files": ("v/a, b.mp4\nv/c d.mp4\n", [("v/a, b.mp4", None), ("v/c d.mp4", None)]),
    "one column": ("path\nv/a, b.mp4\nv/c.mp4\n", [("v/a, b.mp4", None), ("v/c.mp4", None)]),
    "start and frames": ("v/a.mp4 0 -1\nv/b.mp4 0 -1\n", [("v/a.mp4", None), ("v/b.mp4", None)]),
    "folders, frames, labels": ("v/a 8 3\nv/b c 9 0\n", [("v/a", "3"), ("v/b c", "0")]),
    "quoted line end": ('path,label\n"v/a.mp4","x\ny"\n', [("v/a.mp4", "x\ny")]),
    "quote inside": ('v/6" pipe.mp4,x\nv/b.mp4,y\n', [('v/6" pipe.mp4', "x"), ("v/b.mp4", "y")]),
}


@pytest.mark.parametrize("case", READ)
def test_a_list_is_read(case, put):
    text, expected = READ[case]
    assert rows(read_table(put("list.csv", text))) == expected
    for encoding in ("utf-16", "utf-32"):
        assert rows(read_table(put("list.csv", text.strip("\ufeff").encode(encoding)))) == expected


REFUSED = {
    "bare comma, header": ("path,label\nv/a.mp4,y\nv/b.mp4,crane, bird\n", "line 3 has 3 fields"),
    "bare comma": ("v/a.mp4,y\nv/b.mp4,crane, bird\n", "line 2 has 3 fields .*double quotes"),
    "two columns of words": ("v/a.mp4,cat,animal\nv/b.mp4,dog,animal\n", "line 1 .*path,label"),
    "two numbers": ("v/a.mp4 5 1\nv/b.mp4 0 3\n", "line 2 has two numbers .*path frames label"),
    "three numbers": ("v/a.mp4 0 3 5\nv/b.mp4 1 2 3\n", "line 1 has 4 fields"),
    "only a header": ("path,label\n", "holds no row: add a line"),
    "only remarks": ("# nothing\n\n", "is empty"),
    "only signs": (";;;\n;;;\n", "is empty"),
    "other columns": ("id,colour\n7,red\n8,blue\n", "columns id, colour: .* called 'path'"),
    "open quote": ('path,label\nv/a.mp4,x\n"v/b.mp4,y\nv/c.mp4,z\n', "line 3 .*close each quote"),
    "zero bytes": ("path,label\nv/a.mp4\0,x\n" + "v/b.mp4,y\n" * 9, "zero bytes"),
    "half a character": (b"\xff\xfep\0a\0t", "cannot be read as text"),
    "several labels": ('{"path": "v/a.mp4", "label": ["x", "y"]}\n', "line 1 gives several labels"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_list_is_refused_in_one_sentence(case, put):
    text, said = REFUSED[case]
    path = put("list.jsonl" if case == "several labels" else "list.csv", text)
    for name in ("v/a.mp4", "v/b.mp4"):
        put(name)
    for read in (find_samples, lambda place: open_labelled(str(place))):
        with pytest.raises(DataError, match=said) as raised:
            read(path)
        assert "\n" not in str(raised.value) and path.name in str(raised.value)


def test_nothing_is_dropped_or_merged_without_a_word(put):
    lines = ["a.mp4,x", "a.mp4,x", "b.mp4,NaN", "c.mp4,-1", "d.mp4,", "gone.mp4,y", "e.svg,x"]
    path = put("list.csv", "path,label\n" + "\n".join(lines))
    for line in lines[:5]:
        put(line.partition(",")[0])
    found = find_samples(path)
    assert [s.label for s in found] == ["x", None, None, None, "y"]
    assert len(found.notes) == 1 and found.notes[0].startswith("list.csv: 7 rows, 5 files, ")
    said = ("('NaN')", "('-1')", "1 without a label,", "1 missing", "1 named once more", ".svg")
    assert all(words in found.notes[0] + "," for words in said)
    assert found.notes[0] in open_labelled(str(path)).notes
    assert [no_label(word) for word in ("None", "<NA>", "unlabelled", "0", "no")] == [1, 1, 1, 0, 0]


def test_a_file_with_two_labels_is_refused(put):
    put("a.mp4")
    with pytest.raises(DataError, match="two labels, 'x' .list.csv line 1. and 'y' .* line 2"):
        find_samples(put("list.csv", "a.mp4,x\n./a.mp4,y\n"))


def test_whole_numbers_are_numbers(put):
    for name in "abc":
        put(f"{name}.mp4")
    data = open_labelled(str(put("list.csv", "path,label\na.mp4,10.0\nb.mp4,9.0\nc.mp4,nan\n")))
    assert data.classes == ("9", "10") and data.targets.tolist() == [1, 0]


# ---------------------------------------------------------------- names
LATIN = b"caf\xe9"  # not UTF-8, as old archives have it


def test_names_that_are_no_utf8(put):
    odd = put(LATIN + b".mp4")
    put(os.fsencode("v/caf\u00e9.mp4"))
    lists = {LATIN + b".mp4,x\n": odd.name, b"v/" + LATIN + b".mp4,x\n": "v/caf\u00e9.mp4"}
    for text, name in lists.items():
        sample = find_samples(put("list.csv", text))[0]
        assert os.path.relpath(sample.path, put.root) == name and os.path.exists(sample.path)
    found = open_labelled(str(put("labels.csv", b"v/caf\xc3\xa9.mp4," + LATIN + b"\n")))
    assert found.classes == ("caf\u00e9",) and "1 with a label that is not UTF-8" in found.notes[0]
    entry = error_entry(Sample(str(odd), "clip"), "is empty")
    report = ErrorReport()
    report.add([entry])
    report.write(put.root / "skipped.jsonl")
    assert list(ErrorReport(put.root / "skipped.jsonl").files) == [str(odd)]
    for value in ({"\udce9": ["a\udce9\U0001f600"]}, {"caf\u00e9": 1}):
        text = to_json(value, indent=1)
        assert json.loads(text.encode()) == value and ("\u00e9" in text) == ("caf\u00e9" in value)


def test_a_terminal_shows_any_name(monkeypatch):
    from vicmae import cli

    def fails(name, args):
        print(f"reading {args[0]}")
        raise DataError(f"{args[0]} is no picture")

    monkeypatch.setattr(cli, "_run", fails)
    for encoding in ("ascii", "utf-8"):
        raw = [io.BytesIO(), io.BytesIO()]
        for name, stream in zip(("stdout", "stderr"), raw):
            monkeypatch.setattr(sys, name, io.TextIOWrapper(stream, encoding))
        with pytest.raises(SystemExit) as end:
            cli.main(["recipe", "caf\u00e9\udce9.mp4"])
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        texts = [stream.getvalue().decode() for stream in raw]
        name = "caf\\xe9\\udce9.mp4" if encoding == "ascii" else "caf\u00e9\\udce9.mp4"
        assert end.value.code == 2 and all(name in text for text in texts), texts


def test_a_comma_in_a_folders_name(put):
    put("cats, dogs/a/1.jpg")
    put("more/b/1.jpg")
    data = f"{put.root}/cats, dogs, {put.root}/more"
    assert split_data(data) == [f"{put.root}/cats, dogs", f"{put.root}/more"]
    assert split_data("x, y,") == ["x", "y"]
    found = open_labelled(data)
    assert found.classes == ("a", "b") and len(found) == 2 and splits_of(data) == ("train",)


# ---------------------------------------------------------------- folders
def labels(samples, root):
    return [(os.path.relpath(s.path, root), s.label, s.kind) for s in samples]


def test_the_class_is_the_first_folder(put):
    for split in ("Train", "validation"):
        for name in ("cats/day1/1.mp4", "cats/2.mp4", "dogs/day1/far/3.mp4"):
            put(f"set/{split}/{name}")
    for split, name in (("train", "Train"), ("val", "validation"), (None, None)):
        found = find_samples(put.root / "set", split)
        assert {s.label for s in found} == {"cats", "dogs"} and len(found) == (3 if split else 6)
        assert not name or all(f"/{name}/" in s.path for s in found)
        assert "files lie deeper than in their class folder" in found.notes[0]
    assert splits_of(str(put.root / "set")) == ("train", "val")


def test_a_split_word_may_be_a_class(put):
    for name in ("bus", "train", "car"):
        put(f"zoo/{name}/1.jpg")
    assert [s.label for s in find_samples(put.root / "zoo", "train")] == ["bus", "car", "train"]
    assert splits_of(str(put.root / "zoo")) == ("train",)
    put("big/train/cats/1.jpg")
    put("big/extra/1.jpg")
    found = find_samples(put.root / "big", "train")
    assert [s.label for s in found] == ["cats"] and "beside train/" in found.notes[-1]


def test_frames_are_a_clip_below_a_class_only(put):
    for name in ("v1/img_{}", "v2/{}"):
        for i in range(3):
            put(f"films/cats/{name.format(f'{i:04d}')}.jpg")
    for name in ("0.jpg", "1.jpg", "2.jpg"):  # numbered, and in a class folder
        put(f"films/dogs/{name}")
    for name in ("IMG_2041.jpg", "IMG_2042.jpg"):  # numbered by a camera
        put(f"films/dogs/day/{name}")
    root, count = put.root / "films", {}
    for how in ("auto", "clips", "pictures"):
        found = find_samples(root, frames_as=how)
        count[how] = [sum(s.kind == kind for s in found) for kind in ("clip", "picture")]
        labelled = open_labelled(str(root), frames_as=how)
        assert how == "clips" or len(labelled) == len(found)
    assert count == {"auto": [2, 5], "clips": [4, 0], "pictures": [0, 11]}
    notes = find_samples(root).notes
    assert "2 folders of numbered pictures are taken as one clip each" in notes[0]
    assert "1 folders of numbered pictures are taken as pictures" in notes[1]
    with pytest.raises(DataError, match="auto, clips, pictures"):
        find_samples(root, frames_as="films")


def test_what_systems_leave_behind_is_passed_over(put):
    put("set/a/1.jpg")
    for name in ("@eaDir/1.jpg/SYNO_M.jpg", "#recycle/2.jpg", "$RECYCLE.BIN/3.jpg", "._1.jpg",
                 "System Volume Information/4.jpg", "lost+found/5.jpg", ".thumbnails/6.jpg"):
        put(f"set/a/{name}")
        put(f"set/{name}")
    found = find_samples(put.root / "set")
    assert labels(found, put.root / "set") == [("a/1.jpg", "a", "picture")] and not found.notes


def test_folders_that_may_not_be_read_are_named(put, monkeypatch):
    for name in ("a/1.jpg", "b/2.jpg"):
        put(f"set/{name}")
    look, closed = os.scandir, str(put.root / "set/b")

    def guarded(path="."):
        if str(path) == closed:
            raise PermissionError(13, "Permission denied", path)
        return look(path)

    monkeypatch.setattr(os, "scandir", guarded)
    said = f"1 folders may not be read and are left out, the first: {closed} (Permission denied)"
    for read in (find_samples, open_labelled):
        assert read(str(put.root / "set")).notes[-1] == said
    closed = str(put.root / "set")
    with pytest.raises(DataError, match="may not be read"):
        find_samples(put.root / "set")


# ---------------------------------------------------------------- endings
def test_known_endings_are_read_or_named(put):
    for i, end in enumerate("mts m2ts asf vob mxf jfif pgm heic svg cr2 MOV".split()):
        put(f"set/a/{i}.{end}")
    found = find_samples(put.root / "set")
    known = {s.path.rpartition(".")[2] for s in found}
    assert {"mts", "m2ts", "asf", "vob", "mxf", "jfif", "pgm", "MOV"} <= known
    named = " ".join(found.notes)
    assert all(f"reads .{end}:" in named for end in {"svg", "cr2", "heic"} - known)
    for name in ("x.svg", "x.cr2"):
        with pytest.raises(DataError, match=f"no library here reads {name[1:]}: convert it"):
            find_samples(put(name))
        assert unread(name) and kind_of(name) is None


@pytest.mark.parametrize("end, format", [("gif", "GIF"), ("apng", "PNG")])
def test_a_still_animation_is_a_picture(end, format, put):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green")]
    (put.root / "set").mkdir()
    frames[0].save(put.root / f"set/a.{end}", format)
    frames[0].save(put.root / f"set/b.{end}", format, save_all=True, append_images=frames[1:])
    put(f"set/c.{end}", b"no picture")
    assert [s.kind for s in find_samples(put.root / "set")] == ["picture", "clip", "clip"]
    listed = find_samples(put("set/list.csv", f"a.{end} 0\nb.{end} 1\n"))
    assert [s.kind for s in listed] == ["picture", "clip"]


def test_containers_with_other_endings_are_read(tmp_path):
    import av
    import numpy as np

    from vicmae.media.video import open_video

    codecs = {"mts": "mpeg2video", "asf": "msmpeg4", "vob": "mpeg2video", "y4m": "wrapped_avframe",
              "mjpeg": "mjpeg", "ogg": "theora", "3g2": "mpeg4", "f4v": "mpeg4", "divx": "mpeg4"}
    formats = {"mts": "mpegts", "f4v": "mp4", "divx": "avi", "y4m": "yuv4mpegpipe"}
    made = 0
    for end, codec in codecs.items():
        path = tmp_path / f"a.{end}"
        try:
            with av.open(str(path), "w", format=formats.get(end)) as box:
                stream = box.add_stream(codec, rate=25)
                stream.width, stream.height = 64, 48
                stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
                for t in range(6):
                    pixels = np.full((48, 64, 3), 40 * t, np.uint8)
                    box.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
                box.mux(stream.encode())
        except (av.FFmpegError, ValueError):  # no such encoder here
            continue
        assert find_samples(path)[0].kind == "clip"
        with open_video(path) as video:
            assert video.num_frames == 6 and video.frames([0, 5]).shape == (2, 48, 64, 3)
        made += 1
    assert made >= 4


# ---------------------------------------------------------------- data without splits
def test_data_without_splits_is_divided_by_a_named_rule(put):
    for name, count in {"a": 10, "b": 5, "c": 1}.items():
        for i in range(count):
            put(f"set/{name}/{name}{i}x.jpg")
    data = str(put.root / "set")
    assert splits_of(data) == ("train",) and splits_of(data, divide=True) == ("train", "val")
    train, val = (open_labelled(data, split, divide=True) for split in ("train", "val"))
    counts = [[part.targets.tolist().count(c) for c in range(3)] for part in (train, val)]
    assert counts == [[8, 4, 1], [2, 1, 0]] and train.classes == val.classes == ("a", "b", "c")
    assert not {s.path for s in train.samples} & {s.path for s in val.samples}
    assert "a fifth of each class, drawn with seed 0" in val.notes[-1]
    assert "1 classes with one file are in train only, the first: c" in train.notes[-1]
    assert len(open_labelled(data)) == 16, "whole unless it is asked for"
    again = open_labelled(data, "val", divide=True)
    assert [s.path for s in again.samples] == [s.path for s in val.samples]


def test_no_sentence_leaves_its_line(tmp_path):
    """Control characters of a file, which could move a cursor, are shown by their numbers."""
    (tmp_path / "list.csv").write_bytes(b"na\x1b[31mme,la\x07bel\nx,y\n")
    with pytest.raises(DataError) as raised:
        find_samples(tmp_path / "list.csv")
    assert str(raised.value).isprintable() and r"\x1b[31m" in str(raised.value)
