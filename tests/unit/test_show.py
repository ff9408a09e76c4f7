"""What the commands reconstruct, attend and match do with real files, wrong files and options."""
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vicmae.look.attention import patch_features
from vicmae.backbone.checkpoints import load_model, sample_files
from vicmae.train.weights import save_model
from vicmae.errors import DataError
from vicmae.model.vicmae import vicmae_vit_debug
from vicmae.look.show import attend_files, match_file, output_paths, reconstruct_files
from vicmae.errors import MediaError
from vicmae.media.video import open_video
from vicmae.look.film import show_film, write_film
from vicmae.look.reconstruct import draw_masks, predict_patches, read_media, read_several
from vicmae.look.reconstruct import reconstruct, show_reconstruction, show_statistics
from support import SAMPLES

CLIP = str(SAMPLES / "clips/star/train_000002.mp4")
OTHER = str(SAMPLES / "clips/comb/train_000008.mp4")
PICTURE = str(SAMPLES / "pictures/checker/train_000004.jpg")


@pytest.fixture(scope="module")
def model():
    return load_model("tiny64")


@pytest.fixture(scope="module")
def normed(tmp_path_factory) -> Path:
    "A checkpoint of a small model with a patch-normalised target."
    path = tmp_path_factory.mktemp("normed") / "model.safetensors"
    torch.manual_seed(0)
    save_model(path, vicmae_vit_debug(img_size=32, norm_pix_loss=True))
    return path


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def bad(tmp_path) -> dict[str, str]:
    "Files that cannot be used, and a word that their sentence must hold."
    def write(name: str, content: bytes) -> str:
        (tmp_path / name).write_bytes(content)
        return str(tmp_path / name)
    return {write("notes.mp4", b"Not a clip, only words."): "text",
            write("empty.mp4", b""): "empty",
            write("empty.jpg", b""): "empty",
            write("zeros.mp4", bytes(5000)): "zeros",
            write("half.mp4", Path(CLIP).read_bytes()[:9000]): "cut off",
            write("page.jpg", b"<html>not found</html>"): "web page"}


def frames_of(film: Path) -> np.ndarray:
    "All frames of an mp4 or a GIF, decoded by Pillow or PyAV."
    if film.suffix == ".gif":
        with Image.open(film) as moving:
            return np.stack([np.asarray((moving.seek(i), moving.convert("RGB"))[1])
                             for i in range(moving.n_frames)])
    with open_video(film) as video:
        return video.frames(range(video.num_frames))


# ---- the module ----

def test_help_needs_no_torch():
    code = ("import sys, tyro, vicmae.look.show as s\n"
            "for f in (s.reconstruct_files, s.attend_files, s.match_file):\n"
            "    try: tyro.cli(f, args=['--help'])\n"
            "    except SystemExit as e: assert e.code == 0\n"
            "print('heavy:', [m for m in ('torch', 'matplotlib', 'av') if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("heavy: []\n")
    for option in ("--mask-ratio", "--statistics", "--query", "--rollout", "--at", "--gap"):
        assert option in done.stdout


def test_arguments_as_the_command_line_gives_them(here):
    import tyro
    call = lambda f, *args: tyro.cli(f, args=list(args))
    assert call(reconstruct_files, "tiny64", PICTURE, "--out", "a", "--mask-ratio", "0.5") == 0
    assert call(attend_files, "tiny64", PICTURE, "--query", "3,3", "--head", "2", "--out", "a") == 0
    assert call(match_file, "tiny64", CLIP, "--at", "3,4", "--frames", "0,-1", "--out", "a") == 0
    assert sorted(os.listdir("a")) == ["train_000002_match.png", "train_000004_attend.png",
                                       "train_000004_reconstruct.png"]


# ---- what is written ----

def test_names_and_folders(here, capsys):
    (here / "out").mkdir()
    (here / "out" / "mine.txt").write_text("stays")
    assert reconstruct_files("tiny64", (CLIP, PICTURE), out="out", frames=2) == 0
    assert sorted(os.listdir("out")) == ["mine.txt", "train_000002_reconstruct.png",
                                         "train_000004_reconstruct.png"]
    assert capsys.readouterr().out.splitlines() == ["out/train_000002_reconstruct.png",
                                                    "out/train_000004_reconstruct.png"]
    before = (here / "out" / "train_000004_reconstruct.png").read_bytes()
    assert reconstruct_files("tiny64", (PICTURE,), out="out", seed=1) == 0  # its own, replaced
    assert (here / "out" / "train_000004_reconstruct.png").read_bytes() != before
    assert reconstruct_files("tiny64", (PICTURE,), out="out") == 0  # and the same again by seed 0
    assert (here / "out" / "train_000004_reconstruct.png").read_bytes() == before
    assert (here / "out" / "mine.txt").read_text() == "stays"


def test_two_files_of_one_name(here):
    for kind, source in (("a", CLIP), ("b", OTHER)):
        (here / kind).mkdir()
        shutil.copy(source, here / kind / "x.mp4")
    assert attend_files("tiny64", ("a/x.mp4", "b/x.mp4"), out="out", frames=1) == 0
    assert sorted(os.listdir("out")) == ["x_2_attend.png", "x_attend.png"]
    assert (here / "out/x_attend.png").read_bytes() != (here / "out/x_2_attend.png").read_bytes()


def test_without_files_the_samples(here):
    assert reconstruct_files("tiny64", (), frames=1) == 0
    assert len(list(here.glob("*_reconstruct.png"))) == len(sample_files()) >= 4
    assert match_file("tiny64") == 0 and reconstruct_files("tiny64", out="f.gif", frames=2) == 0
    assert len(list(here.glob("*_match.png"))) == 1 and len(frames_of(here / "f.gif")) == 2


def test_a_folder_and_a_run(here):
    run = here / "run/checkpoints"
    shutil.copytree(SAMPLES / "pictures/star", here / "star")
    save_model(run / "step_00000007.safetensors", vicmae_vit_debug(img_size=32))
    assert attend_files("run", ("star",), out="out", rollout=True) == 0
    assert len(os.listdir("out")) == len(os.listdir("star"))


def test_pictures_are_large_enough_to_look_at(here):
    assert reconstruct_files("tiny64", (CLIP,), out="r.png", frames=3) == 0
    assert attend_files("tiny64", (CLIP,), out="a.png", frames=2, block=2) == 0
    assert match_file("tiny64", (CLIP,), out="m.png") == 0
    for name, rows, columns in (("r.png", 3, 4), ("a.png", 2, 2), ("m.png", 1, 3)):
        with Image.open(name) as picture:
            assert picture.width > 160 * columns and picture.height > 160 * rows, name


@pytest.mark.parametrize("ending", ["mp4", "gif"])
def test_films_decode_again(here, ending):
    out = f"deep/er/film.{ending}"
    assert reconstruct_files("tiny64", (CLIP,), out=out, frames=10, fixed=True) == 0
    film = frames_of(here / out)
    assert film.shape == (10, 220, 608, 3)  # three pictures of 192, even sides
    assert os.listdir(here / "deep/er") == [f"film.{ending}"]
    with open_video(CLIP) as clip:
        seconds, frames = clip.duration, read_media(CLIP, 64, 10)
    original = film[:, 8:200, 8:200].astype(float)
    assert np.abs(original - frames.repeat(3, 1).repeat(3, 2)).mean() < 8  # what was to be seen
    masked = film[:, 8:200, 208:400].astype(float)
    grey = (np.abs(masked - 128).max(-1) < 8).mean()
    assert 0.4 < grey < 0.6  # half is hidden
    if ending == "mp4":
        with open_video(here / out) as video:
            assert abs(video.duration - seconds) < 0.05
    else:
        with Image.open(here / out) as moving:
            assert abs(moving.info["duration"] * 10 / 1000 - seconds) < 0.1
            assert moving.info["loop"] == 0  # it repeats


def test_a_film_of_all_frames_and_of_an_array(model, tmp_path):
    assert len(frames_of(write_film(model, OTHER, tmp_path / "all.mp4"))) == 64
    frames = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    for name in ("array.mp4", "array.gif"):
        assert len(frames_of(write_film(model, frames, tmp_path / name, fps=5))) == 5
    with open_video(tmp_path / "array.mp4") as video:
        assert abs(video.duration - 1) < 0.01


# ---- what goes wrong ----

def test_bad_files_are_named_and_the_others_drawn(here, bad, capsys):
    for function in (reconstruct_files, attend_files):
        assert function("tiny64", (*bad, PICTURE), out="out") == 2
        said = capsys.readouterr()
        lines = said.err.splitlines()
        assert len(lines) == len(bad) and "train_000004" in said.out
        for line, (name, word) in zip(lines, bad.items()):
            assert name in line and word in line
    assert sorted(os.listdir("out")) == ["train_000004_attend.png", "train_000004_reconstruct.png"]


def test_bad_files_for_match_and_film(here, bad, capsys):
    for name, word in bad.items():
        if name.endswith("mp4"):
            with pytest.raises(MediaError, match=word):
                match_file("tiny64", (name,))
            assert reconstruct_files("tiny64", (name,), out="film.gif") == 2
            assert word in capsys.readouterr().err
    assert reconstruct_files("tiny64", (PICTURE,), out="film.mp4") == 2
    assert "a film needs two" in capsys.readouterr().err
    assert sorted(os.listdir(".")) == sorted(Path(name).name for name in bad)


@pytest.mark.parametrize("call, word", [
    (lambda: attend_files("tiny64", (PICTURE,), query="8,0"), "no patch"),
    (lambda: attend_files("tiny64", (PICTURE,), query="0,-1"), "no patch"),
    (lambda: attend_files("tiny64", (PICTURE,), query="corner"), "--query"),
    (lambda: attend_files("tiny64", (PICTURE,), block=5), "blocks 1 to 4"),
    (lambda: attend_files("tiny64", (PICTURE,), block=0), "blocks 1 to 4"),
    (lambda: attend_files("tiny64", (PICTURE,), head=9), "heads 1 to 4"),
    (lambda: attend_files("tiny64", (PICTURE,), rollout=True, head=1), "--rollout"),
    (lambda: attend_files("tiny64", (PICTURE,), frames=0), "--frames 0"),
    (lambda: match_file("tiny64", (CLIP,), at="3,9"), "no patch"),
    (lambda: match_file("tiny64", (CLIP,), at="3"), "--at"),
    (lambda: match_file("tiny64", (CLIP,), at="1,2,3"), "--at"),
    (lambda: match_file("tiny64", (CLIP,), frames="0,64"), "frames 0 to 63"),
    (lambda: match_file("tiny64", (CLIP,), gap=64), "frames 0 to 63"),
    (lambda: match_file("tiny64", (CLIP,), gap=3, frames="1,2"), "leave one out"),
    (lambda: match_file("tiny64", (CLIP,), block=7), "blocks 1 to 4"),
    (lambda: match_file("tiny64", (PICTURE,)), "needs two frames"),
    (lambda: match_file("tiny64", (CLIP, OTHER)), "one clip, or two pictures"),
    (lambda: reconstruct_files("tiny64", (CLIP,), mask_ratio=1.5), "mask_ratio=1.5"),
    (lambda: reconstruct_files("tiny64", (CLIP,), frames=-1), "--frames -1"),
    (lambda: reconstruct_files("tiny64", (CLIP,), out="x.gif", frames=1), "--frames 1"),
    (lambda: reconstruct_files("tiny64", (CLIP,), out="x.mp4", statistics="all"), "one kind"),
    (lambda: reconstruct_files("tiny64", (CLIP, OTHER), out="x.mp4"), "name a folder"),
    (lambda: reconstruct_files("tiny64", (CLIP,), out="x.avi"), "name a folder, or a file"),
    (lambda: reconstruct_files("tiny64", ("gone.mp4",)), "gone.mp4 does not exist"),
    (lambda: reconstruct_files("no/such/run", (CLIP,)), "no/such/run"),
    (lambda: reconstruct_files("tiny64", (CLIP,), device="gpu"), "unknown device"),
    (lambda: reconstruct_files("tiny64", (CLIP,), statistics="both"), "raw, visible or true"),
])
def test_wrong_options_are_one_sentence_and_write_nothing(here, call, word):
    with pytest.raises((ValueError, OSError)) as caught:
        call()
    text = str(caught.value)
    assert word in text and "\n" not in text and len(text) < 250
    assert os.listdir(here) == []


def test_out_below_a_file(here):
    (here / "file").write_text("no folder")
    for out in ("file/deeper", "file/x.png", "file/x.gif"):
        with pytest.raises(OSError, match="cannot be written"):
            reconstruct_files("tiny64", (CLIP,), out=out, frames=2)
    with pytest.raises(ValueError, match="name a folder"):
        reconstruct_files("tiny64", (CLIP,), out="file")


def test_match_of_two_pictures(here, capsys):
    other = str(SAMPLES / "pictures/checker/train_000014.jpg")
    assert match_file("tiny64", (PICTURE, other), at="4,4") == 0
    assert "train_000004.jpg -> patch" in capsys.readouterr().out


def test_match_with_itself_finds_itself(here, capsys):
    for at in ("0,0", "3,5", "7,7"):
        assert match_file("tiny64", (CLIP,), at=at, frames="9,9") == 0
        assert f"patch {at} of frame 9 -> patch {at} of frame 9, similarity 1.00" in \
            capsys.readouterr().out


def test_match_is_from_the_first_frame_to_the_second(here, model, capsys):
    with open_video(CLIP) as clip:
        frames = read_media(clip.frames([50, 5]), 64)
    answers, pictures = [], []
    for block in (1, 4):
        features = patch_features(model, frames, block - 1)
        a, b = torch.nn.functional.normalize(features - features.mean((0, 1)), dim=-1)
        row, col = divmod(int((b @ a[3 * 8 + 4]).argmax()), 8)
        answers.append(f"patch 3,4 of frame 50 -> patch {row},{col} of frame 5,")
        assert match_file("tiny64", (CLIP,), at="3,4", frames="50,5", block=block, out="m.png") == 0
        assert answers[-1] in capsys.readouterr().out
        pictures.append((here / "m.png").read_bytes())
    assert pictures[0] != pictures[1]


# ---- reading ----

def test_media_of_many_kinds(tmp_path, model):
    clip = read_media(CLIP, 64, 4)
    assert np.array_equal(read_media(clip, 64), clip)
    assert np.array_equal(read_media(torch.from_numpy(clip).permute(0, 3, 1, 2), 64), clip)
    assert np.array_equal(read_media(clip / 255.0, 64), clip)
    assert np.array_equal(read_media(clip[0], 64), clip[:1])
    assert read_media(clip[0, ..., 0], 64).shape == (1, 64, 64, 3)  # grey
    for i, frame in enumerate(clip):
        Image.fromarray(frame).save(tmp_path / f"{i:03d}.png")
    assert np.array_equal(read_media(tmp_path, 64, 4), clip)  # a folder of frames
    one = tmp_path / "one.gif"
    Image.fromarray(clip[0]).save(one)
    assert read_media(one, 64, 4).shape == (1, 64, 64, 3)  # a clip of one frame
    assert read_media(CLIP, 64, 100).shape == (64, 64, 64, 3)  # it has no more than 64
    assert read_media(CLIP, 32, times=[0, 1.0, 0.5]).shape == (3, 32, 32, 3)
    frames, names = read_several([CLIP, PICTURE, clip], 64, 2)
    assert len(frames) == len(names) == 2 + 1 + 4 and names[2] == "train_000004"
    assert [n.split("\n")[0] for n in names[:2]] == ["train_000002"] * 2 and names[3:] == [""] * 4
    assert [float(n.split("\n")[1][:-2]) for n in names[:2]] == [1.0, 3.0]  # seconds
    with pytest.raises(ValueError, match="undo their normalisation"):
        read_media(torch.randn(3, 64, 64), 64)
    with pytest.raises(DataError, match="extension"):
        (tmp_path / "x.pdf").write_text("%PDF")
        read_media(tmp_path / "x.pdf", 64)
    with pytest.raises(DataError, match="nothing to show"):
        show_reconstruction(model, [])
    with pytest.raises(IndexError, match="lasts"):
        read_media(CLIP, 64, times=[99.0])


# ---- masks and statistics ----

@pytest.mark.floats
def test_hidden_pixels_do_not_leak(model, normed):
    """With raw or visible statistics the answer must not change what is painted."""
    for network in (model, load_model(normed)):
        size, rng = network.grid * network.patch_size, np.random.default_rng(0)
        frames = read_media(CLIP, size, 2)
        mask = draw_masks(2, network.num_patches, 0.6, seed=4)
        p, grid = network.patch_size, network.grid
        where = mask.reshape(-1, grid, grid).bool().numpy().repeat(p, 1).repeat(p, 2)
        other = frames.copy()
        other[where] = rng.integers(0, 256, other[where].shape)
        for statistics in ("raw", "visible"):
            a, b = (reconstruct(network, x, mask, statistics=statistics) for x in (frames, other))
            assert np.array_equal(a.prediction, b.prediction)
        a, b = (reconstruct(network, x, mask, statistics="true") for x in (frames, other))
        assert np.array_equal(a.prediction, b.prediction) != network.norm_pix_loss  # it does leak


@pytest.mark.floats
@pytest.mark.parametrize("hidden", [0, 1, 63, 64])
def test_extreme_masks(model, hidden):
    mask = torch.zeros(64).scatter(0, torch.randperm(64)[:hidden], 1.0)
    frames = read_media(CLIP, 64, 2)
    out = reconstruct(model, frames, mask)
    assert out.mask.sum(1).tolist() == [hidden] * 2
    for pictures in out[:4]:
        assert np.isfinite(pictures).all() and pictures.min() >= 0 and pictures.max() <= 1
    assert np.isnan(out.loss) == (hidden == 0)
    pasted = (out.pasted == out.original).all(-1).reshape(2, 8, 8, 8, 8).all((2, 4)).reshape(2, 64)
    assert (pasted == (mask == 0).numpy()).all()
    show_reconstruction(model, frames, mask), show_statistics(model, frames, mask)
    show_film(model, frames, mask=mask)


def test_everything_hidden_with_normalised_patches(normed):
    network = load_model(normed)
    frames = read_media(CLIP, 32, 2)
    raw, visible = (reconstruct(network, frames, np.ones(16), statistics=s).prediction
                    for s in ("raw", "visible"))
    assert np.array_equal(raw, visible) and raw.std() > 0  # nothing is visible: nobody's statistics


@pytest.mark.floats
def test_weights_mode_and_precision_stay(model):
    images = torch.randn(2, 3, 64, 64)
    model.train()
    predict_patches(model, images, draw_masks(2, 64, 0.5))
    assert model.training
    model.eval()
    half = load_model("tiny64").to(torch.bfloat16)
    a, b = (reconstruct(m, read_media(PICTURE, 64)).prediction for m in (model, half))
    assert 0 < np.abs(a - b).max() < 0.2


@pytest.mark.clocks
def test_one_picture_is_quick(model):
    picture, seconds = read_media(PICTURE, 64), []
    images, noise = torch.zeros(1, 3, 64, 64), torch.rand(1, model.num_patches)
    plain = lambda: model.reconstruct(images, noise, predict_all=True)  # the model's own part
    for what in (lambda: reconstruct(model, picture), plain):
        took = []
        for _ in range(15):
            start = time.process_time()
            what()
            took.append(time.process_time() - start)
        seconds.append(min(took))
    assert seconds[0] < 10 * seconds[1], seconds


def test_output_paths_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert output_paths(["x.mp4"], "~/pics", "attend") == [tmp_path / "pics/x_attend.png"]
