"""`import vicmae`: light, with a dozen names; and what `vicmae.features` says of wrong pixels."""
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from support.waiting import PATIENCE

import vicmae
from vicmae.backbone.checkpoints import load_model, sample_files
from vicmae.backbone.vectors import as_clips, as_pixels, features
from vicmae.data.views import normalize
from vicmae.errors import DataError
from vicmae.finetuning.classifier import Classifier
from vicmae.media.files import Sample, find_samples
from vicmae.media.pictures import read_picture
from vicmae.model.vicmae import vicmae_vit_debug

PACKAGE = Path(vicmae.__file__).parent
FILES = sample_files()
PHOTO = next(file for file in FILES if file.suffix == ".jpg")


def python(code: str) -> str:
    """What a Python of its own prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          timeout=PATIENCE)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


# ---------------------------------------------------------------- the door
def test_import_is_light_and_lists_its_names() -> None:
    names = python("import sys, vicmae\nprint(*dir(vicmae))\n"
                   "heavy = {'torch', 'numpy', 'timm', 'matplotlib', 'av'} & set(sys.modules)\n"
                   "assert not heavy, heavy").split()
    assert {*vicmae.FRONT_DOOR, "recipe"} <= set(names)
    assert not set(names) & {"Any", "difflib", "import_module"}


def clashes() -> set[str]:
    """Names of the front door that a module or a folder of the package bears, too."""
    inside = {path.stem for path in PACKAGE.glob("*.py")}
    inside |= {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    return inside & {*vicmae.__all__}


def test_no_name_is_that_of_a_module() -> None:
    """These four lie in modules of their name until the modules move into rooms: then none may."""
    flat = {"features", "predict", "pretrain", "finetune"}
    moved = any((PACKAGE / name / "__init__.py").exists() for name in ("train", "media", "model"))
    assert clashes() == (set() if moved else flat)


def test_every_name_is_there_after_all_modules_were_imported() -> None:
    said = python(
        "import importlib, pkgutil, vicmae\n"
        "for found in pkgutil.walk_packages(vicmae.__path__, 'vicmae.'):\n"
        "    if not found.name.endswith('__main__'): importlib.import_module(found.name)\n"
        "print(*[name for name in vicmae.__all__ if not callable(getattr(vicmae, name))])")
    assert set(said.split()) <= clashes()


def test_help_tells_the_parameters() -> None:
    """Of `features` all of them; of each other what the comments in its code say."""
    said = python("import inspect, vicmae\n"
                  "for name in vicmae.FRONT_DOOR:\n"
                  "    found = vicmae.__getattr__(name)\n"
                  "    print('---', name, *inspect.signature(found).parameters)\n"
                  "    print(found.__doc__)\n")
    pages = {}
    for page in said.split("--- ")[1:]:
        head, *lines = page.splitlines()
        name, *names = head.split()
        pages[name] = [arg for arg in names if not any(line.strip().startswith(f"{arg}: ")
                                                       for line in lines)], len(names)
    assert not pages["features"][0] and pages.keys() == vicmae.FRONT_DOOR.keys()
    silent = [name for name, (lacking, count) in pages.items() if len(lacking) == count > 0]
    assert set(silent) <= {"pretrain", "finetune"}, silent  # a configuration, see `recipe`


def test_an_unknown_name_gets_the_near_one() -> None:
    with pytest.raises(AttributeError, match="did you mean 'load_model'"):
        vicmae.load_modle  # noqa: B018
    assert not hasattr(vicmae, "something_else")
    for call, words in ((lambda: vicmae.recipe("debgu"), "debug"),
                        (lambda: vicmae.recipe("debug", step=1), "steps")):
        with pytest.raises(ValueError, match=words):
            call()
    assert vicmae.recipe("finetune_tiny_objects", data="x").data == "x"


def test_types_are_shipped() -> None:
    assert (PACKAGE / "py.typed").exists()


# ---------------------------------------------------------------- features of what one has
@pytest.fixture(scope="module")
def tiny():
    return load_model("tiny")


def test_files_folders_and_pixels_agree(tiny, tmp_path: Path) -> None:
    photo = read_picture(PHOTO)
    one = features(tiny, PHOTO)
    assert one.shape == (1, 96) and one.dtype == torch.float32 and one.isfinite().all()
    every = features("tiny", FILES)
    assert torch.allclose(every[FILES.index(PHOTO)], one[0], atol=1e-5)
    folder = features(tiny, PHOTO.parent)
    order = [Path(sample.path) for sample in find_samples(PHOTO.parent)]
    assert torch.allclose(folder, every[[FILES.index(path) for path in order]], atol=1e-5)
    assert torch.allclose(features(tiny, list(find_samples(PHOTO))), one, atol=1e-5)
    assert torch.allclose(features(tiny, [PHOTO, str(PHOTO)]), one.expand(2, -1), atol=1e-5)
    tensor = torch.from_numpy(photo).permute(2, 0, 1)
    for form in (photo, tensor, photo[None], tensor[None], [photo], photo / 255,
                 tensor.double() / 255, np.stack([photo] * 5)[None], [np.stack([photo] * 5)],
                 photo[::-1][::-1]):
        assert torch.allclose(features(tiny, form), one, atol=1e-3), np.shape(form)
    assert features(tiny, np.stack([photo] * 5), batch_size=2).shape == (5, 96)
    assert features(tiny, photo, pool="mean+cls").shape == (1, 192)
    assert not torch.allclose(features(tiny, photo, crop_pct=0.5), one, atol=1e-3)
    assert tiny.training is False


def test_bad_files_are_named_and_the_others_kept(tiny, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_text("no picture")
    with pytest.warns(UserWarning, match=r"1 of 2 files .*bad\.jpg"):
        found = features(tiny, [PHOTO, bad])
    assert found[0].isfinite().all() and found[1].isnan().all()
    with pytest.raises(DataError, match="bad.jpg"), warnings.catch_warnings():
        warnings.simplefilter("error")
        features(tiny, bad)


GOOD = np.arange(6 * 5 * 3, dtype=np.uint8).reshape(6, 5, 3)
WRONG = {  # pixels, and words of the sentence
    "grey": (GOOD[..., 0], "np.stack"),
    "one channel": (GOOD[..., :1], "repeat it"),
    "one channel first": (GOOD.transpose(2, 0, 1)[:1], "repeat it"),
    "alpha": (np.concatenate([GOOD, GOOD[..., :1]], -1), "alpha"),
    "two channels": (GOOD[..., :2], "red, green and blue"),
    "either order": (np.zeros((3, 4, 3), np.uint8), "the first or the last"),
    "either order, N": (np.zeros((2, 3, 4, 3), np.uint8), "the first or the last"),
    "flat": (GOOD.ravel(), "shape"),
    "six dimensions": (GOOD[None, None, None], "shape"),
    "no picture": (np.zeros((0, 6, 5, 3), np.uint8), "empty"),
    "no row": (GOOD[:0], "empty"),
    "empty list": ([], "one or more"),
    "clips in a list": ([GOOD[None, None]], "one or more"),
    "int64": (GOOD.astype(int), "int64"),
    "uint16": (GOOD.astype(np.uint16), "uint16"),
    "int8 tensor": (torch.from_numpy(GOOD).to(torch.int8), "int8"),
    "mask": (GOOD > 3, "bool"),
    "floats to 255": (GOOD.astype(np.float32), "divide them by 255"),
    "normalised": (normalize(torch.from_numpy(GOOD).permute(2, 0, 1)), "denormalize"),
    "in [-1, 1]": (GOOD / 127.5 - 1, "denormalize"),
    "nan": (np.full(GOOD.shape, np.nan), "finite"),
    "infinite": (np.full(GOOD.shape, np.inf, np.float32), "finite"),
    "complex": (GOOD.astype(complex), "type"),
    "words": (np.array(["a", "b"]), "type"),
    "dict": ({"image": GOOD}, "dict"),
    "None": (None, "NoneType"),
    "files and pixels": ([PHOTO, GOOD], "not both"),
    "one bad item": ([GOOD, GOOD[..., 0]], "item 1"),
}


@pytest.mark.parametrize("what, words", WRONG.values(), ids=WRONG)
def test_wrong_pixels_get_one_sentence(what: object, words: str, tiny) -> None:
    with pytest.raises(ValueError, match=words) as told:
        features(tiny, what)
    text = str(told.value)
    assert "\n" not in text and 20 < len(text) < 240


@pytest.mark.parametrize("options, words", [
    (dict(pool="median"), "unknown pooling"), (dict(num_frames=0), "1 or more"),
    (dict(batch_size=0), "1 or more"), (dict(device="gpu"), "device='gpu'")])
def test_wrong_options_get_one_sentence(options: dict, words: str, tiny) -> None:
    with pytest.raises(ValueError, match=words):
        features(tiny, GOOD, **options)


def test_wrong_models_and_paths_get_one_sentence(tiny) -> None:
    for model, what, error in ((torch.nn.Linear(2, 2), GOOD, ValueError),
                               (None, GOOD, ValueError), ("tiny", "no/such.jpg", DataError),
                               ("no/such/run", GOOD, Exception)):
        with pytest.raises(error):
            features(model, what)
    lost = Sample("gone.jpg", "picture")
    with pytest.raises(DataError, match="gone.jpg"):
        features(tiny, [lost])


def test_pixels_keep_their_values_and_their_owner(tiny) -> None:
    backwards = GOOD[:, ::-1]
    assert torch.equal(as_pixels(backwards), torch.from_numpy(backwards.copy()).permute(2, 0, 1))
    frozen = GOOD.copy()
    frozen.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(as_pixels(frozen), as_pixels(GOOD))
    big = GOOD.astype(">f4") / 255
    assert torch.equal(as_pixels(big), as_pixels(GOOD))
    assert torch.equal(as_pixels(torch.from_numpy(GOOD / 255).half()), as_pixels(GOOD))
    before = GOOD.copy()
    features(tiny, GOOD)
    assert (before == GOOD).all() and len(as_clips([GOOD, GOOD[None]])) == 2


# ---------------------------------------------------------------- the models themselves
S = torch.zeros(2, 3, 64, 64)
BAD_BATCHES = {
    "larger": (torch.zeros(2, 3, 96, 96), "center_view"), "wider": (S[..., :56], "center_view"),
    "one picture": (S[0], "images\\[None\\]"), "channels last": (S.movedim(1, -1), "movedim"),
    "grey": (S[:, :1], "grey"), "alpha": (torch.zeros(2, 4, 64, 64), "alpha"),
    "bytes": (S.byte(), "normalize"), "numbers": (S[0, 0, 0], "4 dimensions"),
}


@pytest.mark.parametrize("images, words", BAD_BATCHES.values(), ids=BAD_BATCHES)
def test_a_model_refuses_what_does_not_fit(images: torch.Tensor, words: str) -> None:
    model = vicmae_vit_debug()
    classifier = Classifier(3, img_size=64, patch_size=8, embed_dim=32, depth=1, num_heads=2)
    noise = torch.rand(2, model.num_patches)
    calls = [lambda: model.forward_features(images), lambda: model.reconstruct(images, noise),
             lambda: classifier(images), lambda: classifier.forward_features(images)]
    for call in calls:
        with pytest.raises(ValueError, match=words):
            call()
    views = images[:, None] if images.dim() == 4 else images
    for call in (model, model.represent):
        with pytest.raises(ValueError):
            call(views, noise[:, None])


def test_a_model_refuses_noise_of_another_shape() -> None:
    model = vicmae_vit_debug()
    for noise in (torch.rand(2, 63), torch.rand(1, 64), torch.rand(64)):
        with pytest.raises(ValueError, match="noise"):
            model.reconstruct(S, noise)
        with pytest.raises(ValueError, match="noise"):
            model.represent(S[:, None], noise)
    assert model.forward_features(S[:0]).shape == (0, 65, 96)  # no picture is a batch, too


def test_normalize_takes_pixels_alone() -> None:
    for wrong in (S, S.long(), S.bool()):
        with pytest.raises(ValueError, match="uint8"):
            normalize(wrong)
