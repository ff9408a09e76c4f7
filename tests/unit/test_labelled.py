"""Data sets laid out as their makers lay them out, in small; and laid out wrongly."""

import gzip
import hashlib
import json
import pickle
import re

import numpy as np
import pytest
import torch
from PIL import Image

from vicmae.errors import DataError
from vicmae.evaluation.catalog import DATASETS
from vicmae.evaluation.layouts import VOC
from vicmae.media.frames import first_frame
from vicmae.evaluation.labelled import open_labelled, splits_of
from vicmae.errors import DatasetMissing

BIRDS, PLACES = ("Acadian_Flycatcher", "Blue_Jay"), ("/a/airfield", "/b/bus_station/indoor")
TEMPLATES = {"Holding something": "1", "Pushing something from left to right": "0"}
WNIDS = ("n01440764", "n01443537")


# ---------------------------------------------------------------- small files
@pytest.fixture(scope="session")
def media(tmp_path_factory):
    """The bytes of one picture and of one clip; every file of a layout is one of them."""
    import av

    folder = tmp_path_factory.mktemp("media")
    pixels = np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).resize((40, 32)).save(folder / "a.jpg")
    with av.open(str(folder / "a.mp4"), "w") as container:
        stream = container.add_stream("h264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for t in range(4):
            frame = np.full((48, 64, 3), 40 * t, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return {"picture": (folder / "a.jpg").read_bytes(), "clip": (folder / "a.mp4").read_bytes()}


@pytest.fixture
def put(tmp_path, media):
    """put(path): a picture or a clip there; put(path, text): a list."""

    def write(path, text=None):
        path = tmp_path / path
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = "clip" if path.suffix in (".mp4", ".webm") else "picture"
        data = media[kind] if text is None else text if isinstance(text, bytes) else text.encode()
        path.write_bytes(data)
        return path

    write.root = tmp_path
    return write


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


# ---------------------------------------------------------------- the layouts
def food101(put, _):
    for split, names in {"train": (1, 2), "test": (3,)}.items():
        listed = {c: [f"{c}/{n}" for n in names] for c in ("apple_pie", "baklava")}
        put(f"food-101/meta/{split}.json", json.dumps(listed))
        for name in sum(listed.values(), []):
            put(f"food-101/images/{name}.jpg")
    put("food-101/meta/classes.txt", "apple_pie\nbaklava\n")
    return {"train": [0, 0, 1, 1], "test": [0, 1]}


def cifar(put, patch, kind="CIFAR10", labels="labels", key="label_names"):
    from torchvision import datasets

    known, rng = getattr(datasets, kind), np.random.default_rng(0)
    tables = {"train_list": [], "test_list": []}
    for table, rows in tables.items():
        for b, (name, _) in enumerate(getattr(known, table)):
            pixels = rng.integers(0, 255, (2, 3072), np.uint8)
            made = pickle.dumps({"data": pixels, labels: [b % 2, 1]})
            rows.append([name, md5(put(f"{known.base_folder}/{name}", made))])
        patch.setattr(known, table, rows)
    file = put(f"{known.base_folder}/{known.meta['filename']}", pickle.dumps({key: ["cat", "dog"]}))
    patch.setattr(known, "meta", {**known.meta, "md5": md5(file)})
    batches = len(tables["train_list"])
    return {
        "train": [i % 2 if j == 0 else 1 for i in range(batches) for j in (0, 1)],
        "test": [0, 1],
    }


def cifar100(put, patch):
    return cifar(put, patch, "CIFAR100", "fine_labels", "fine_label_names")


def birdsnap(put, _):
    listed = ["url\tmd5\tpath\tspecies_id"]
    for i, bird in enumerate(BIRDS):
        for n in range(3):
            put(f"birdsnap/download/images/{bird}/{n}.jpg")
            listed.append(f"http://x\t0\t{bird}/{n}.jpg\t{i + 1}")
    put("birdsnap/images.txt", "\n".join(listed))
    put("birdsnap/test_images.txt", "path\n" + "\n".join(f"{bird}/2.jpg" for bird in BIRDS))
    return {"train": [0, 0, 1, 1], "test": [0, 1]}


def birdsnap_folders(put, _):
    for split in ("train", "test"):
        for bird in BIRDS:
            put(f"birdsnap/{split}/{bird}/0.jpg")
    return {"train": [0, 1], "test": [0, 1]}


def sun397(put, _):
    names = ["/a/abbey", "/b/basketball_court/indoor", "/b/bakery/indoor"]
    put("SUN397/ClassName.txt", "\n".join(names))  # no order of ours
    for part, n in {"Training": 0, "Testing": 1}.items():
        files = [f"{name}/sun_{n}.jpg" for name in names]
        put(f"Partitions/{part}_01.txt", "\n".join(files) + "\n")
        for file in files:
            put(f"SUN397{file}")
    return {"train": [0, 1, 2], "test": [0, 1, 2]}


def mat(path, **values):
    from scipy.io import savemat

    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, values)
    return path


def cars(put, _):
    home, kinds = put.root / "stanford_cars", [("fname", "O"), ("class", "u1")]
    names = np.array(["Audi TT 2011", "BMW M3 2012"], object)
    mat(home / "devkit" / "cars_meta.mat", class_names=names)
    for split, file in {
        "train": "devkit/cars_train_annos",
        "test": "cars_test_annos_withlabels",
    }.items():
        rows = np.array([(f"0000{i}.jpg", i) for i in (1, 2)], kinds)
        mat(home / f"{file}.mat", annotations=rows)
        for i in (1, 2):
            put(f"stanford_cars/cars_{split}/0000{i}.jpg")
    return {"train": [0, 1], "test": [0, 1]}


def aircraft(put, _):
    home, at = "fgvc-aircraft-2013b/data", 0
    put(f"{home}/variants.txt", "707-320\nA300B4\n")
    lists = {"train": [], "val": [], "test": []}
    for split, rows in lists.items():
        for name in ("A300B4", "707-320"):
            put(f"{home}/images/{at:07d}.jpg")
            rows.append(f"{at:07d} {name}")
            at += 1
    lists["trainval"] = lists["train"] + lists["val"]
    for split, rows in lists.items():
        put(f"{home}/images_variant_{split}.txt", "\n".join(rows) + "\n")
    return {split: [1, 0] * (len(rows) // 2) for split, rows in lists.items()}


def voc2007(put, _):
    home = "VOCdevkit/VOC2007"
    for split, ids in {"trainval": (1, 2), "train": (1,), "val": (2,), "test": (3, 4)}.items():
        for c, name in enumerate(VOC):
            said = [{0: 1, 1: 0}.get((c + i) % 20, -1) for i in ids]  # one there, one difficult
            lines = [f"{i:06d} {value:2d}" for i, value in zip(ids, said)]
            put(f"{home}/ImageSets/Main/{name}_{split}.txt", "\n".join(lines) + "\n")
        for i in ids:
            put(f"{home}/JPEGImages/{i:06d}.jpg")
    return {"trainval": None, "train": None, "val": None, "test": None}


def dtd(put, _, home="dtd"):
    for n, split in enumerate(("train", "val", "test")):
        files = [f"{c}/{c}_000{n}.jpg" for c in ("banded", "zigzagged")]
        put(f"{home}/labels/{split}1.txt", "\n".join(files) + "\n")
        for file in files:
            put(f"{home}/images/{file}")
    return {"train": [0, 1], "val": [0, 1], "test": [0, 1], "trainval": [0, 1, 0, 1]}


def dtd_of_torchvision(put, patch):
    return dtd(put, patch, "dtd/dtd")


def pets(put, _):
    for split, n in {"trainval": 1, "test": 2}.items():
        rows = [f"{name}_{n} {c} 1 1" for name, c in (("Abyssinian", 1), ("american_bulldog", 2))]
        put(f"oxford-iiit-pet/annotations/{split}.txt", "\n".join(rows) + "\n")
        for row in rows:
            put(f"oxford-iiit-pet/images/{row.split()[0]}.jpg")
    return {"trainval": [0, 1], "test": [0, 1]}


def caltech101(put, _):
    for name in ("BACKGROUND_Google", "Faces", "accordion"):
        for n in range(33):
            put(f"caltech101/101_ObjectCategories/{name}/image_{n + 1:04d}.jpg")
    put("caltech101/101_ObjectCategories/BACKGROUND_Google/tmp", "a stray file")
    return {"train": [0] * 30 + [1] * 30 + [2] * 30, "test": [0] * 3 + [1] * 3 + [2] * 3}


def flowers102(put, patch):
    from torchvision.datasets import Flowers102

    home = put.root / "flowers-102"
    labels = mat(home / "imagelabels.mat", labels=[[1, 102, 1, 102, 1, 102]])
    sets = mat(home / "setid.mat", trnid=[[1, 2]], valid=[[3, 4]], tstid=[[5, 6]])
    for i in range(1, 7):
        put(f"flowers-102/jpg/image_{i:05d}.jpg")
    files = {
        **Flowers102._file_dict,
        "label": (labels.name, md5(labels)),
        "setid": (sets.name, md5(sets)),
    }
    patch.setattr(Flowers102, "_file_dict", files)
    return {"train": [0, 101], "val": [0, 101], "test": [0, 101], "trainval": [0, 101, 0, 101]}


def imagenet(put, _):
    for wnid in WNIDS:
        put(f"imagenet/train/{wnid}/{wnid}_1.JPEG")
        put(f"imagenet/val/{wnid}/ILSVRC2012_val_00000001.JPEG")
    return {"train": [0, 1], "val": [0, 1]}


def flat_imagenet(put, home):
    for wnid in WNIDS:
        put(f"{home}/train/{wnid}/{wnid}_1.JPEG")
    for i in (1, 2):
        put(f"{home}/val/ILSVRC2012_val_{i:08d}.JPEG")
    return {"train": [0, 1], "val": [1, 0]}


def imagenet_kaggle(put, _):
    rows = [
        f"ILSVRC2012_val_{i:08d},{wnid} 85 1 499 272 " for i, wnid in ((1, WNIDS[1]), (2, WNIDS[0]))
    ]
    put("LOC_val_solution.csv", "ImageId,PredictionString\n" + "\n".join(rows))
    return flat_imagenet(put, "ILSVRC/Data/CLS-LOC")


def imagenet_caffe(put, _):
    put("imagenet/val.txt", "ILSVRC2012_val_00000001.JPEG 1\nILSVRC2012_val_00000002.JPEG 0\n")
    return flat_imagenet(put, "imagenet")


def imagenet_tensorflow(put, _):
    put("imagenet/imagenet_2012_validation_synset_labels.txt", f"{WNIDS[1]}\n{WNIDS[0]}\n")
    return flat_imagenet(put, "imagenet")


def places365(put, _):
    put(
        "places365/categories_places365.txt",
        "".join(f"{c} {1 - i}\n" for i, c in enumerate(PLACES)),
    )
    files = [f"{c}/0000000{n}.jpg" for c in PLACES for n in (1, 2)]
    rows = [f"{file} {1 - i // 2}" for i, file in enumerate(files)]
    put("places365/places365_train_standard.txt", "\n".join(rows) + "\n")
    for file in files:
        put(f"places365/data_256{file}")
    rows = [f"Places365_val_0000000{i}.jpg {i - 1}" for i in (2, 1)]
    put("places365/places365_val.txt", "\n".join(rows) + "\n")
    for i in (1, 2):
        put(f"places365/val_256/Places365_val_0000000{i}.jpg")
    return {"train": [1, 1, 0, 0], "val": [1, 0]}


def places365_folders(put, _):
    for split in ("train", "val"):
        for name in ("airfield", "bus_station-indoor"):
            put(f"places365_standard/{split}/{name}/0000000{len(split)}.jpg")
    return {"train": [0, 1], "val": [0, 1]}


HEAD = "label,youtube_id,time_start,time_end,split\n"
CLIPS = (("air drumming", "-3B32lodo2M", 59, 69), ('"baby waking up"', "a_b-cdefghi", 7, 17))


def kinetics(put, place, home="kinetics400", where="{}.csv"):
    for split in ("train", "val"):
        rows = [
            f"{label},{i},{a},{b},{split}"
            for label, i, a, b in CLIPS[:: -1 if split == "val" else 1]
        ]
        put(f"{home}/{where.format(split)}", HEAD + "\n".join(rows) + "\n")
        for label, i, a, b in CLIPS:
            folder = label.strip('"').replace(" ", "_")
            put(f"{home}/{place.format(split=split, label=folder)}/{i}_{a:06d}_{b:06d}.mp4")
    return {"train": [0, 1], "val": [1, 0]}


def kinetics400(put, _):
    return kinetics(put, "{split}")


def kinetics600(put, _):
    return kinetics(put, "{split}/{label}", "kinetics600", "annotations/{}.csv")


def kinetics700(put, _):
    return kinetics(put, "videos_{split}", "k700-2020", "annotations/{}.csv")


def kinetics400_cvdf(put, _):
    """As cvdf's script unpacks it, with one clip that only the replacements hold."""
    found = kinetics(put, "{split}", "k400", "annotations/{}.csv")
    name = "-3B32lodo2M_000059_000069.mp4"
    (put.root / "k400" / "train" / name).unlink()
    put(f"k400/replacement/replacement_for_corrupted_k400/{name}")
    return found


def kinetics400_folders(put, _):
    for split in ("train", "val"):
        for label in ("air_drumming", "baby_waking_up"):
            put(f"kinetics400/{split}/{label}/{split}_000001_000011.mp4")
    return {"train": [0, 1], "val": [0, 1]}


def kinetics400_lists(put, _, comma=" "):
    """As VideoMAE lists it."""
    for split in ("train", "val"):
        rows = [f"videos/{split} {n}.mp4{comma}{n}" for n in (1, 0)]
        put(f"kinetics400/{split}.csv", "\n".join(rows) + "\n")
        for n in (1, 0):
            put(f"kinetics400/videos/{split} {n}.mp4")
    return {"train": [1, 0], "val": [1, 0]}


def kinetics400_comma_lists(put, patch):
    return kinetics400_lists(put, patch, ",")


def ssv2(put, _, lists="labels/{}.json"):
    for n, split in enumerate(("train", "validation")):
        rows = [
            {"id": str(10 * n), "label": "holding a cup", "template": "Holding [something]"},
            {"id": str(10 * n + 1), "template": "Pushing [something] from left to right"},
        ]
        put("ssv2/" + lists.format(split), json.dumps(rows))
        for row in rows:
            put(f"ssv2/20bn-something-something-v2/{row['id']}.webm")
    put("ssv2/" + lists.format("labels"), json.dumps(TEMPLATES))
    return {"train": [1, 0], "val": [1, 0]}


def ssv2_long_names(put, patch):
    return ssv2(put, patch, "something-something-v2-{}.json")


def mit(put, _):
    home = "Moments_in_Time_256x256_30fps"
    put(f"{home}/moments_categories.txt", "clapping,0\nadult+female+singing,1\n")
    for word in ("training", "validation"):
        rows = [f"{c}/{word}_1.mp4,{c},3,1" for c in ("clapping", "adult+female+singing")]
        put(f"{home}/{word}Set.csv", "\n".join(rows) + "\n")
        for row in rows:
            put(f"{home}/{word}/{row.split(',')[0]}")
    return {"train": [0, 1], "val": [0, 1]}


def folders(put, _):
    for split in ("train", "val", "test"):
        for label in ("ant", "bee")[split == "val" :]:  # val lacks a class
            put(f"mine/{split}/{label}/1.jpg")
    return {"train": [0, 1], "val": [1], "test": [0, 1]}


def folders_of_clips(put, _):
    for split in ("training", "validation"):
        for label in ("ant", "bee"):
            put(f"mine/{split}/{label}/1.mp4")
    return {"train": [0, 1], "val": [0, 1]}


def one_folder(put, _):
    for label in ("ant", "bee"):
        put(f"mine/{label}/1.jpg")
    return {"train": [0, 1]}


def manifest(put, _, mark=",", name="manifest.csv"):
    rows = [("path", "label", "split")]
    for split in ("train", "val"):
        for label in ("bee", "ant"):
            rows.append((f"{split} {label}.jpg", label, split))
            put(f"mine/{split} {label}.jpg")
    put(f"mine/{name}", "\n".join(mark.join(row) for row in rows) + "\n")
    return {"train": [1, 0], "val": [1, 0]}


def manifest_tabs(put, patch):
    return manifest(put, patch, "\t")


def manifest_jsonl(put, _):
    rows = [
        {"path": f"{s}_{c}.mp4", "label": c, "split": s} for s in ("train", "val") for c in "ba"
    ]
    for row in rows:
        put(f"mine/{row['path']}")
    put("mine/manifest.jsonl", "\n".join(map(json.dumps, rows)))
    return {"train": [1, 0], "val": [1, 0]}


def lists_with_class_names(put, _):
    put("mine/classes.txt", "bee\nant\nwasp\n")
    for split in ("train", "val"):
        put(f"mine/{split}.txt", f"{split}_a.jpg 1\n{split}_b.jpg 0\n")
        for n in "ab":
            put(f"mine/{split}_{n}.jpg")
    return {"train": [1, 0], "val": [1, 0]}


NAMED = [
    food101,
    cifar,
    cifar100,
    birdsnap,
    birdsnap_folders,
    sun397,
    cars,
    aircraft,
    voc2007,
    dtd,
    dtd_of_torchvision,
    pets,
    caltech101,
    flowers102,
    imagenet,
    imagenet_kaggle,
    imagenet_caffe,
    imagenet_tensorflow,
    places365,
    places365_folders,
    kinetics400,
    kinetics600,
    kinetics700,
    kinetics400_cvdf,
    kinetics400_folders,
    kinetics400_lists,
    kinetics400_comma_lists,
    ssv2,
    ssv2_long_names,
    mit,
]
OWN = [
    folders,
    folders_of_clips,
    one_folder,
    manifest,
    manifest_tabs,
    manifest_jsonl,
    lists_with_class_names,
]


def known_name(layout):
    return "cifar10" if layout is cifar else layout.__name__.split("_")[0]


@pytest.mark.parametrize("layout", NAMED + OWN, ids=lambda f: f.__name__)
def test_a_layout_is_read(layout, put, monkeypatch):
    expected = layout(put, monkeypatch)
    data = str(put.root / "mine") if layout in OWN else f"{known_name(layout)}:{put.root}"
    names = None
    assert set(expected) <= set(splits_of(data))
    for split, ids in expected.items():
        found = open_labelled(data, split)
        names = names or found.classes
        assert found.classes == names, "one numbering for all splits"
        assert ids is None or found.targets.tolist() == ids
        assert len(found) == len(found.targets) == len(found.samples) and found.split == split
        assert len({sample.path for sample in found.samples}) == len(found)
        for i in {0, len(found) - 1}:
            sample = found.samples[i]
            if sample.kind == "picture":
                pixels = found.frames().read(i, first_frame)
                assert pixels.dtype == torch.uint8 and pixels.shape[:2] == (1, 3)
            else:
                with open(sample.path, "rb") as file:
                    assert len(file.read()) > 100
            if ids:
                assert sample.label_id == ids[i] and sample.label == names[ids[i]]
    again = open_labelled(data, split, classes=["none", *names[::-1]])  # as in a checkpoint
    if ids:
        assert again.targets.tolist() == [len(names) - i for i in ids]
    if data.partition(":")[0] in DATASETS:
        known = DATASETS[data.partition(":")[0]]
        assert (found.metric, found.directed) == (known.metric, known.directed)


# ---------------------------------------------------------------- what they hold
def test_voc2007_scores(put):
    voc2007(put, None)
    data = open_labelled(f"voc2007:{put.root}", "test")
    assert data.targets.shape == (2, 20) and data.targets.dtype == np.float32
    assert np.isnan(data.targets).sum(1).tolist() == [1, 1], "a difficult object is not scored"
    assert np.nansum(data.targets, 1).tolist() == [1, 1]
    assert data.targets[0, -3] == 1 and np.isnan(data.targets[0, -2])
    assert [s.label_id for s in data.samples] == [-1, -1] and data.samples[0].label == "sofa"
    turned = open_labelled(f"voc2007:{put.root}", "test", classes=data.classes[::-1])
    np.testing.assert_array_equal(turned.targets, data.targets[:, ::-1])
    (put.root / "VOCdevkit/VOC2007/JPEGImages/000003.jpg").unlink()
    rest = open_labelled(f"voc2007:{put.root}", "test")
    np.testing.assert_array_equal(rest.targets, data.targets[1:])


def test_cifar_holds_its_pixels(put, monkeypatch):
    cifar(put, monkeypatch)
    data = open_labelled(f"cifar10:{put.root}", "train")
    assert data.images.shape == (10, 32, 32, 3)
    assert data.samples[3].path.endswith("cifar-10-batches-py/data_batch_2#1")
    file = put.root / "cifar-10-batches-py" / "data_batch_2"
    raw = pickle.loads(file.read_bytes())["data"][1].reshape(3, 32, 32).transpose(1, 2, 0)
    np.testing.assert_array_equal(data.frames().read(3, first_frame)[0].permute(1, 2, 0), raw)


class Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit('a pickle ran code')",)


def test_a_pickle_that_was_changed_is_not_opened(put, monkeypatch):
    cifar(put, monkeypatch)
    put("cifar-10-batches-py/test_batch", pickle.dumps(Evil()))
    with pytest.raises(DataError, match="is not CIFAR10 as it was published"):
        open_labelled(f"cifar10:{put.root}", "test")


def test_caltech101_is_drawn_once_and_for_all(put):
    caltech101(put, None)
    train, test = [open_labelled(f"caltech101:{put.root}", s) for s in ("train", "test")]
    paths = [{s.path for s in data.samples} for data in (train, test)]
    assert not paths[0] & paths[1] and len(paths[0] | paths[1]) == 99
    names = sorted(re.findall(r"_(\d+)", s.path)[-1] for s in test.samples if "accordion" in s.path)
    again = open_labelled(f"caltech101:{put.root}", "test")
    assert [s.path for s in again.samples] == [s.path for s in test.samples]
    assert names == ["0009", "0014", "0029"], "the draw of this class has changed"


def test_the_suite_and_the_measures():
    suite = list(DATASETS)[:12]
    per_class = [n for n in DATASETS if DATASETS[n].metric == "per_class"]
    assert len(suite) == 12 and suite[0] == "food101" and suite[-1] == "flowers102"
    assert per_class == ["aircraft", "pets", "caltech101", "flowers102"]
    assert [n for n in DATASETS if DATASETS[n].metric == "map"] == ["voc2007"]
    assert [n for n in DATASETS if DATASETS[n].directed] == ["ssv2"]
    for name, known in DATASETS.items():
        assert splits_of(name)[-1] in ("test", "val") and splits_of(name)[0] != splits_of(name)[-1]
        assert not known.sizes or len(known.sizes) == len(splits_of(name))


def test_differences_from_the_published_set_are_noted(put):
    dtd(put, None)
    notes = " ".join(open_labelled(f"dtd:{put.root}", "test").notes)
    assert (
        "holds 2 samples; 1880 were published" in notes and "2 classes; 47 were published" in notes
    )


def test_motions_of_a_manifest(put):
    put(
        "world/manifest.csv",
        "path,kind,label,motion,split\na.mp4,clip,ring,orbit,train\n"
        "b.mp4,clip,star,drift,train\nc.jpg,picture,star,,train\n",
    )
    for name in ("a.mp4", "b.mp4", "c.jpg"):
        put(f"world/{name}")
    plain = open_labelled(str(put.root / "world"), label="motion")
    assert not plain.directed, "a column of this name means nothing where no world was made"
    put("world/world.json", "{}")
    shapes = open_labelled(str(put.root / "world"))
    moves = open_labelled(str(put.root / "world"), label="motion")
    assert shapes.classes == ("ring", "star") and shapes.targets.tolist() == [0, 1, 1]
    assert moves.classes == ("drift", "orbit") and moves.targets.tolist() == [1, 0]
    assert moves.directed and not shapes.directed
    assert "1 of 3 files have no label" in moves.notes[0] and "line 4" in moves.notes[0]


def test_a_list_says_which_of_its_columns_are_directions(put):
    rows = "a.mp4,left,short,{0},train\nb.mp4,right,long,{0},train\n"
    for name in ("a.mp4", "b.mp4"):
        put(f"own/{name}")
    for said, directed in (("turn", ["turn"]), ("turn motion", ["turn", "motion"]), ("", [])):
        put("own/manifest.csv", "path,turn,motion,directed,split\n" + rows.format(said))
        found = {n: open_labelled(str(put.root / "own"), label=n) for n in ("turn", "motion")}
        assert [name for name, data in found.items() if data.directed] == directed
    put("own/world.json", "{}")  # what the list says counts
    put("own/manifest.csv", "path,turn,motion,directed,split\n" + rows.format("turn"))
    assert not open_labelled(str(put.root / "own"), label="motion").directed


def test_numbers_of_a_checkpoint(put):
    """Its class names decide, whatever signs a folder uses, and numbers are positions in them."""
    kinetics400_folders(put, None)
    names = ["baby waking up", "zumba", "air drumming"]
    data = open_labelled(f"kinetics400:{put.root}", "val", classes=names)
    assert data.classes == tuple(names) and data.targets.tolist() == [2, 0]
    kinetics400_lists(put, None)
    assert open_labelled(f"kinetics400:{put.root}", "val", classes=names).targets.tolist() == [1, 0]


# ---------------------------------------------------------------- left out, and said so
def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def lose_a_clip(put):
    kinetics400(put, None)
    next((put.root / "kinetics400/train").glob("a_b*")).unlink()
    return "kinetics400", "train", r"1 of 2 files are missing and left out, .*a_b.*train.csv line 3"


def an_unlisted_picture(put):
    imagenet_kaggle(put, None)
    put("ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_00000009.JPEG")
    return "imagenet", "val", r"1 files in .*val are in no list and left out, .*00000009"


def a_picture_outside_the_folders(put):
    folders(put, None)
    put("mine/train/stray.jpg")
    return "mine", "train", r"1 of 3 files have no label and are left out, .*stray"


def an_empty_class_folder(put):
    folders(put, None)
    (put.root / "mine/train/cow").mkdir()
    return "mine", "train", r"1 folders of .*train hold no file, the first: cow"


def files_below_their_class_folder(put):
    for name in ("bus_station/indoor", "museum/indoor", "yard"):
        put(f"mine/{name}/1.jpg")
    return "mine", "train", r"2 files lie deeper than in their class folder, .*bus_station/indoor"


def a_line_twice(put):
    mit(put, None)
    path = put.root / "Moments_in_Time_256x256_30fps/trainingSet.csv"
    path.write_text(path.read_text() + path.read_text().splitlines()[0])
    return "mit", "train", r"1 of 3 files are listed twice and counted once, .*line 3"


def a_row_without_label(put):
    manifest(put, None)
    edit(put.root / "mine/manifest.csv", "train bee.jpg,bee", "train bee.jpg,")
    return "mine", "train", r"1 of 2 files have no label and are left out, .*manifest.csv line 2"


NOTED = [
    lose_a_clip,
    an_unlisted_picture,
    a_picture_outside_the_folders,
    an_empty_class_folder,
    files_below_their_class_folder,
    a_line_twice,
    a_row_without_label,
]


@pytest.mark.parametrize("wrong", NOTED, ids=lambda f: f.__name__)
def test_what_is_left_out_is_noted(wrong, put):
    name, split, said = wrong(put)
    data = open_labelled(str(put.root / name) if name == "mine" else f"{name}:{put.root}", split)
    assert any(re.search(said, note) for note in data.notes), data.notes
    assert len(data) >= 1 and all("\n" not in note for note in data.notes)


# ---------------------------------------------------------------- refused, in one sentence
def broken(layout, path, old=None, new=None):
    """A layout with one file changed: `old` becomes `new`; without them it is removed."""

    def make(put, patch):
        layout(put, patch)
        file = put.root / path
        file.unlink() if old is None else edit(file, old, new)

    return make


def only(text):
    return lambda put, _: put(text)


def without_files(layout, pattern):
    def make(put, patch):
        layout(put, patch)
        for path in put.root.glob(pattern):
            path.unlink()

    return make


MIT = "Moments_in_Time_256x256_30fps"
MAIN = "VOCdevkit/VOC2007/ImageSets/Main"
WRONG = {
    "unknown name": (only("x.jpg"), "fod101", "train", "neither a path .* such as food101"),
    "unknown path": (only("x.jpg"), "/nowhere/x", "train", "/nowhere/x is neither a path"),
    "not there": (only("x.jpg"), "dtd", "test", "dtd/labels was looked for: get it from .*dtd"),
    "not there, torchvision": (only("x.jpg"), "food101", "test", "food-101/meta .* get it from"),
    "wrong split": (
        dtd,
        "dtd",
        "valid",
        "dtd has no split 'valid', only trainval, train, val, test",
    ),
    "wrong split, folders": (folders_of_clips, "mine", "test", "no split 'test', only train, val"),
    "wrong split, manifest": (manifest, "mine", "test", "no split 'test', only train, val"),
    "no column": (
        manifest,
        "mine#motion",
        "train",
        "no column 'motion': it has path, label, split",
    ),
    "no column, folders": (folders, "mine#motion", "train", "has no column 'motion'"),
    "no column, by name": (dtd, "dtd#motion", "train", "dtd has one label a file and no column"),
    "no labels json": (
        broken(ssv2, "ssv2/labels/labels.json"),
        "ssv2",
        "train",
        "labels.json is missing in .*ssv2/labels, .*it should hold the number of each template",
    ),
    "no categories": (
        broken(places365, "places365/categories_places365.txt"),
        "places365",
        "val",
        "categories_places365.txt is missing: it should hold /a/class",
    ),
    "no moments": (
        broken(mit, f"{MIT}/moments_categories.txt"),
        "mit",
        "train",
        "moments_categories.txt is missing",
    ),
    "no sun names": (
        broken(sun397, "SUN397/ClassName.txt"),
        "sun397",
        "train",
        "ClassName.txt is missing in .*SUN397, .*Partitions: it should hold",
    ),
    "no sun lists": (
        broken(sun397, "Partitions/Testing_01.txt"),
        "sun397",
        "test",
        "Testing_01.txt is missing in .*Partitions.zip",
    ),
    "no voc list": (
        broken(voc2007, f"{MAIN}/cow_test.txt"),
        "voc2007",
        "test",
        "cow_test.txt is missing",
    ),
    "no food list": (
        broken(food101, "food-101/meta/test.json"),
        "food101",
        "test",
        "food-101 is not Food101 as it was published .*test.json",
    ),
    "no variants": (
        broken(aircraft, "fgvc-aircraft-2013b/data/variants.txt"),
        "aircraft",
        "test",
        "is not FGVCAircraft as it was published .*variants.txt",
    ),
    "no pets list": (
        broken(pets, "oxford-iiit-pet/annotations/test.txt"),
        "pets",
        "test",
        "annotations/test.txt is missing",
    ),
    "no cars list": (
        broken(cars, "stanford_cars/cars_test_annos_withlabels.mat"),
        "cars",
        "test",
        "is not StanfordCars as it was published",
    ),
    "no flowers list": (
        broken(flowers102, "flowers-102/setid.mat"),
        "flowers102",
        "test",
        "is not Flowers102 as it was published",
    ),
    "no validation list": (
        broken(imagenet_kaggle, "LOC_val_solution.csv"),
        "imagenet",
        "val",
        "holds pictures without folders by class .*LOC_val_solution.csv",
    ),
    "no video": (
        without_files(ssv2, "ssv2/20bn*/*.webm"),
        "ssv2",
        "train",
        "lists 2 files and none of them is there, not even .*0.webm",
    ),
    "no clip": (
        without_files(kinetics400, "kinetics400/train/*"),
        "kinetics400",
        "train",
        "lists 2 files and none of them is there",
    ),
    "no picture": (without_files(dtd, "dtd/images/*/*"), "dtd", "test", "none of them is there"),
    "empty folder": (
        without_files(folders, "mine/train/*/*"),
        "mine",
        "train",
        "holds no picture and no clip",
    ),
    "empty list": (
        broken(
            kinetics400_lists, "kinetics400/val.csv", "videos/val 1.mp4 1\nvideos/val 0.mp4 0\n", ""
        ),
        "kinetics400",
        "val",
        "val.csv is empty",
    ),
    "label not in the list": (
        broken(ssv2, "ssv2/labels/train.json", "[something] from", "it from"),
        "ssv2",
        "train",
        "train.json entry 2.* has class 'Pushing it .* not among the 2 classes of labels.json",
    ),
    "moment not in the list": (
        broken(mit, f"{MIT}/trainingSet.csv", ",clapping,", ",slapping,"),
        "mit",
        "train",
        r"\(trainingSet.csv line 1\) has class 'slapping'",
    ),
    "aircraft not in the list": (
        broken(aircraft, "fgvc-aircraft-2013b/data/images_variant_test.txt", "A300B4", "A999"),
        "aircraft",
        "test",
        "as it was published .'A999'.: download",
    ),
    "class only in val": (
        broken(kinetics400, "kinetics400/train.csv", "air drumming", "zumba"),
        "kinetics400",
        "val",
        "'air drumming', which is not among the 2 classes of",
    ),
    "class only in val, folders": (
        lambda put, _: (folders(put, _), put("mine/val/cow/1.jpg")),
        "mine",
        "val",
        "cow/1.jpg has class 'cow', .* of the training split",
    ),
    "class list too short": (
        broken(places365, "places365/categories_places365.txt", "/a/airfield 1\n", ""),
        "places365",
        "val",
        "places365_val.txt line 1: class number 1, but categories_places365.txt "
        "names only 1 classes",
    ),
    "class names too short": (
        broken(lists_with_class_names, "mine/classes.txt", "bee\nant\nwasp", "bee"),
        "mine",
        "val",
        "val.txt line 1: class number 1, but .*classes.txt names only 1",
    ),
    "number twice": (
        broken(mit, f"{MIT}/moments_categories.txt", "singing,1", "singing,0"),
        "mit",
        "val",
        "moments_categories.txt entry 2: number '0' of class 'adult.female.singing' is given",
    ),
    "number left out": (
        broken(mit, f"{MIT}/moments_categories.txt", "singing,1", "singing,2"),
        "mit",
        "val",
        "has 2 classes but no number 1",
    ),
    "no number": (
        broken(places365, "places365/categories_places365.txt", "airfield 1", "airfield"),
        "places365",
        "train",
        "categories_places365.txt line 1, '/a/airfield', lacks a field",
    ),
    "not a number": (
        broken(mit, f"{MIT}/moments_categories.txt", "singing,1", "singing,x"),
        "mit",
        "val",
        "number 'x' of class 'adult.female.singing' is not a whole number",
    ),
    "name twice": (
        broken(lists_with_class_names, "mine/classes.txt", "wasp", "bee"),
        "mine",
        "val",
        "classes.txt names the class 'bee' twice",
    ),
    "two labels": (
        broken(
            mit,
            f"{MIT}/trainingSet.csv",
            "clapping/training_1.mp4,clapping,3,1",
            "clapping/training_1.mp4,clapping,3,1\nclapping/training_1.mp4,"
            "adult+female+singing,3,1",
        ),
        "mit",
        "train",
        "is listed with two labels, "
        r"'clapping' \(trainingSet.csv line 1\) and 'adult",
    ),
    "path twice": (
        broken(manifest, "mine/manifest.csv", "train ant.jpg,ant", "train bee.jpg,ant"),
        "mine",
        "train",
        r"with two labels, 'bee' .manifest.csv line 2. and 'ant' .manifest.csv line 3.",
    ),
    "no label at all": (
        broken(manifest, "mine/manifest.csv", "path,label", "path,colour"),
        "mine",
        "train",
        "holds no labelled file: 2 of 2 files have no label .*line 2",
    ),
    "another header": (
        broken(manifest, "mine/manifest.csv", "path,label", "who,label"),
        "mine",
        "train",
        "begins with the columns who, label, split: one of them must be",
    ),
    "no times": (
        broken(kinetics400, "kinetics400/val.csv", ",59,69", ",,"),
        "kinetics400",
        "val",
        "val.csv line 3 has no time_start and time_end",
    ),
    "no template": (
        broken(ssv2, "ssv2/labels/train.json", '"template"', '"text"'),
        "ssv2",
        "train",
        "train.json entry 1 has no id and template",
    ),
    "not json": (broken(ssv2, "ssv2/labels/labels.json", "}", ""), "ssv2", "train", "is not JSON"),
    "voc value": (
        broken(voc2007, f"{MAIN}/sofa_test.txt", "000003  1", "000003  7"),
        "voc2007",
        "test",
        "sofa_test.txt line 1 says '7'",
    ),
    "voc order": (
        broken(voc2007, f"{MAIN}/sofa_test.txt", "000003  1\n", ""),
        "voc2007",
        "test",
        "sofa_test.txt differs from aeroplane's list",
    ),
    "pet without number": (
        broken(pets, "oxford-iiit-pet/annotations/test.txt", "Abyssinian_2 1 1 1", "Abyssinian_2"),
        "pets",
        "test",
        "test.txt line 1, 'Abyssinian_2', names no",
    ),
    "given classes": (
        folders,
        "mine!ant,cow",
        "val",
        "'bee', which is not among the 2 classes that were",
    ),
    "binary list": (
        lambda put, _: put("mine/train.csv", gzip.compress(b"a,b")),
        "mine",
        "train",
        "train.csv cannot be read as text",
    ),
    "another name": (
        lambda put, _: put("data/Food101/meta/train.json", "{}"),
        "food101:data/Food101",
        "train",
        "must be called food-101",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_in_one_sentence(case, put, monkeypatch):
    make, name, split, said = WRONG[case]
    make(put, monkeypatch)
    name, _, label = name.partition("#")
    name, _, classes = name.partition("!")
    name, _, folder = name.partition(":")
    data = f"{name}:{put.root / folder}" if name in DATASETS else name
    with pytest.raises(DataError) as raised:
        open_labelled(
            str(put.root / "mine") if name == "mine" else data,
            split,
            classes=classes.split(",") if classes else None,
            label=label or "label",
        )
    message = str(raised.value)
    print(case, "|", message.replace(str(put.root), ""))
    assert re.search(said, message), message
    assert "\n" not in message and len(message.replace(str(put.root), "")) < 330, message
    missing = "not there" in case or case.startswith("no ") and "is missing" in message
    assert isinstance(raised.value, DatasetMissing) or not missing


def test_counts():
    """What the tests of this file cover, for whoever quotes them."""
    assert len(NAMED) == 30 and len(OWN) == 7 and len(NOTED) == 7
    assert {known_name(layout) for layout in NAMED} == set(DATASETS)
    assert len(WRONG) == 52


def test_import_is_quick():
    import subprocess
    import sys

    code = (
        "import sys, vicmae.evaluation.labelled;"
        "heavy = {'torch', 'torchvision', 'scipy'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
