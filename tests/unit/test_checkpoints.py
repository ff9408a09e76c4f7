"""Weights of all makers, damaged and hostile ones; and a run's own files that hold anything."""

import argparse
import collections
import functools
import io
import json
import math
import os
import pathlib
import pickle
import random
import resource
import struct
import subprocess
import warnings
import zipfile
from dataclasses import replace
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from support.waiting import PATIENCE

from vicmae.backbone.checkpoints import load_model, rebuild
from vicmae.finetuning.classifier import Classifier
from vicmae.run.config import method_of
from vicmae.media.records import ErrorReport
from vicmae.media.records import read_object, read_rows
from vicmae.cluster.follow import RunReader, headline
from vicmae.backbone.foreign import open_weights
from vicmae.run.log import MetricsFile, draw_losses
from vicmae.model.vicmae import ViCMAE, vicmae_vit_debug
from vicmae.pretraining.recipes import PretrainConfig, get_recipe
from vicmae.media.records import write_rows
from vicmae.run.folder import RunFolder
from vicmae.train.engine import time_shares
from vicmae.run.session import open_run
from vicmae.cluster.watch import draw_run, text_frame
from vicmae.errors import CheckpointError
from vicmae.train.weights import read_tensors, save_model, save_tensors

HEADS = {"num_heads": 2, "decoder_num_heads": 2}
SIZES = dict(
    img_size=16,
    patch_size=8,
    embed_dim=8,
    depth=1,
    decoder_embed_dim=8,
    decoder_depth=1,
    projector_hidden_dim=8,
    projector_out_dim=4,
)


@functools.cache
def weights() -> dict[str, torch.Tensor]:
    "Of a very small model."
    torch.manual_seed(0)
    return vicmae_vit_debug(**SIZES, **HEADS).state_dict()


def saved(path: Path, content: object, **options) -> Path:
    torch.save(content, path, **options)
    return path


def refusal(path: Path | str, **options) -> str:
    "What is said to a file that cannot be used: a sentence with its name, nobody else's advice."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(CheckpointError) as error:
            load_model(path, **options)
    said = str(error.value)
    assert Path(path).name in said and len(said) < 900 and "\n" not in said.strip()
    assert "weights_only" not in said and "\x1b" not in said and "add_safe_globals" not in said
    return said


def loaded(path: Path, **options) -> list[str]:
    "The warnings of a file that must load with the weights of the small model."
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        model = load_model(path, **HEADS | options)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, weights()[name].to(value.dtype), rtol=0, atol=0)
    return [str(w.message) for w in seen]


# ---- whole weights, however they are wrapped and named ----

NAMES = ("a.ckpt", "a.pth.tar", "A.PTH", "a.bin", "a", "a.safetensors")
WRAPPED = {
    "bare": lambda s: s,
    "ordered": lambda s: collections.OrderedDict(s),
    "model": lambda s: {"model": s, "optimizer": {"state": {0: torch.zeros(3)}}, "epoch": 3},
    "state_dict": lambda s: {"state_dict": s},
    "module": lambda s: {"module": s, "step": 7},
    "deep": lambda s: {"checkpoint": {"ema": {"weights": s}}},
    "module.": lambda s: {"model": {f"module.{k}": v for k, v in s.items()}},
    "_orig_mod.": lambda s: {f"_orig_mod.{k}": v for k, v in s.items()},
    "both": lambda s: {"model": {f"module._orig_mod.{k}": v for k, v in s.items()}},
    "in blocks": lambda s: {k.replace("blocks.0.", "blocks.0._orig_mod."): v for k, v in s.items()},
    "double": lambda s: {k: v.double() if v.is_floating_point() else v for k, v in s.items()},
}


@pytest.mark.parametrize("how", WRAPPED)
def test_complete_weights_load_from_any_wrapping(tmp_path, how):
    assert not loaded(saved(tmp_path / "a.pth", WRAPPED[how](weights())))


def test_the_name_of_a_file_tells_nothing(tmp_path):
    for name in NAMES:
        assert not loaded(saved(tmp_path / name, {"model": weights()}))
    old = dict(_use_new_zipfile_serialization=False)
    assert not loaded(saved(tmp_path / "old.safetensors", {"model": weights()}, **old))
    for metadata in ({}, {"format": "pt"}):  # converted by somebody: no word about the model
        save_tensors(tmp_path / "tensors.pth", weights(), metadata)
        assert not loaded(tmp_path / "tensors.pth")


def test_of_several_models_one_is_taken_and_named(tmp_path):
    other = {k: torch.zeros_like(v) for k, v in weights().items()}
    said = loaded(saved(tmp_path / "a.pth", {"model_ema": other, "model": weights()}))
    assert len(said) == 1 and "model_ema, model): model is taken" in said[0]
    said = loaded(saved(tmp_path / "b.pth", {"student": weights(), "teacher": other}))
    assert "student, teacher): student is taken" in said[0]
    lightning = {f"net.{k}": v for k, v in weights().items()} | {"loss.centre": torch.zeros(3)}
    assert "1 tensors that are not below 'net.'" in loaded(
        saved(tmp_path / "c.ckpt", {"state_dict": lightning})
    )[0]


class Odd:
    "An object that only its maker can load."


BESIDE = {
    "a NumPy number": ({"best": np.float64(81.2)}, "numpy"),
    "an array": ({"history": np.arange(3)}, "numpy"),
    "a path": ({"args": argparse.Namespace(out=pathlib.PurePosixPath("/x"))}, "pathlib"),
    "own class": ({"config": Odd()}, "Odd"),
    "a partial": ({"args": argparse.Namespace(norm=functools.partial(Odd))}, "functools.partial"),
}


@pytest.mark.parametrize("what", BESIDE)
@pytest.mark.parametrize("new", [True, False])
def test_foreign_objects_beside_the_weights_are_left_out_and_named(tmp_path, what, new):
    beside, word = BESIDE[what]
    options = dict(_use_new_zipfile_serialization=new)
    said = loaded(saved(tmp_path / "a.pth", {"model": weights()} | beside, **options))
    assert any(word in text for text in said)


def test_arguments_of_the_authors_are_obeyed(tmp_path):
    for flag in (True, False):
        args = argparse.Namespace(mask_ratio=0.25, norm_pix_loss=flag)
        model = load_model(saved(tmp_path / "a.pth", {"model": weights(), "args": args}), **HEADS)
        assert model.norm_pix_loss is flag and model.mask_ratio == 0.25
    for args, word in (
        ({"mask_ratio": "most"}, "mask_ratio='most'"),
        ({"mask_ratio": 1.5}, "mask_ratio=1.5"),
        ({"norm_pix_loss": None}, "norm_pix_loss=None"),
    ):
        path = saved(tmp_path / "b.pth", {"model": weights(), "args": argparse.Namespace(**args)})
        assert word in refusal(path, **HEADS)
    assert "5 heads" in refusal(saved(tmp_path / "c.pth", weights()), num_heads=5)
    save_model(tmp_path / "d.safetensors", vicmae_vit_debug(**SIZES, **HEADS))
    assert "says num_heads=2" in refusal(tmp_path / "d.safetensors", num_heads=4)


# ---- what cannot be used ----

def archive(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return stream.getvalue()


FOREIGN = {
    "LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull"),
    "page": (b"\n <!DOCTYPE html><html>404</html>", "web page"),
    "text": (b"model weights will be released soon", "text that begins 'model weights"),
    "index": (b'{"weight_map": {"a": "model-00001.safetensors"}}', "text that begins"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(90), "HDF5"),
    "NumPy": (b"\x93NUMPY\x01\x00" + bytes(90), "NumPy"),
    "ONNX": (b"\x08\x08\x12\x07pytorch" + bytes(90), "ONNX"),
    "gzip": (b"\x1f\x8b\x08" + bytes(90), "gzip"),
    "PNG": (b"\x89PNG\r\n\x1a\n" + bytes(90), "picture"),
    "zeros": (bytes(5000), "zeros"),
    "empty": (b"", "empty"),
    "noise": (bytes(range(200, 256)) * 9, "no known kind"),
    "other zip": (archive(**{"a.npy": b"1", "b.npy": b"2"}), "a.npy, b.npy"),
    "TorchScript": (archive(**{"m/data.pkl": b".", "m/constants.pkl": b"."}), "TorchScript"),
    "plain pickle": (pickle.dumps({"model": 1}), "torch.save did not write"),
    "cut pickle": (b"\x80\x02}q\x00", "torch.save did not write"),
}


@pytest.mark.parametrize("what", FOREIGN)
@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_files_of_other_kinds_are_called_what_they_are(tmp_path, what, name):
    content, words = FOREIGN[what]
    (tmp_path / name).write_bytes(content)
    assert words in refusal(tmp_path / name)


CONTENT = {
    "None": (None, "holds a NoneType"),
    "text": ("weights", "holds a str"),
    "number": (7, "holds a int"),
    "list": ([1, 2], "holds a list"),
    "tensor": (torch.zeros(3), "holds a Tensor"),
    "tensors": ([torch.zeros(3)], "holds a list"),
    "nothing": ({}, "holds a dict"),
    "no weights": ({"model": None, 3: torch.zeros(2)}, "holds a dict (model, 3)"),
    "words": ({"model": {"cls_token": "x"}}, "holds a dict (model)"),
    "module": (torch.nn.Linear(2, 2), "pickled torch.nn.modules.linear.Linear"),
    "own class": (Odd(), "Odd"),
    "encoder": (lambda s: {k: v for k, v in s.items() if k.split(".")[0] in
                           ("cls_token", "pos_embed", "patch_embed", "blocks")}, "encoder alone"),
    "MAE": (lambda s: {k: v for k, v in s.items() if "projector" not in k}, "(MAE)"),
    "transformers": ({"vit.embeddings.patch_embeddings.weight": torch.zeros(3)}, "Hugging Face"),
    "another": ({"conv1.weight": torch.zeros(3)}, "conv1.weight"),
    "hole": (lambda s: {k: v for k, v in s.items() if "attn.qkv" not in k}, "(blocks.0.attn.qkv"),
    "extra": (lambda s: s | {"registers": torch.zeros(2)}, "1 unknown (registers)"),
    "scalar": (lambda s: s | {"cls_token": torch.zeros(())}, "cls_token is []"),
    "empty weight": (lambda s: s | {"cls_token": torch.zeros(1, 1, 0)}, "cls_token is [1, 1, 0]"),
    "3-D patches": (lambda s: s | {"patch_embed.proj.weight": torch.zeros(8, 3, 2, 8, 8)},
                    "patch_embed.proj.weight is [8, 3, 2, 8, 8]"),
    "int8": (lambda s: {k: v.to(torch.int8) for k, v in s.items()}, "is int8"),
    "fp8": (lambda s: s | {"cls_token": s["cls_token"].to(torch.float8_e4m3fn)}, "float8_e4m3fn"),
    "complex": (lambda s: s | {"cls_token": s["cls_token"].to(torch.complex64)}, "complex64"),
    "bool": (lambda s: s | {"cls_token": s["cls_token"] > 0}, "is bool"),
    "sparse": (lambda s: s | {"norm.weight": s["norm.weight"].to_sparse()}, "sparse_coo"),
    "meta": (lambda s: {k: v.to("meta") for k, v in s.items()}, "on meta"),
    "nan": (lambda s: s | {"norm.bias": s["norm.bias"] * math.nan}, "not finite (norm.bias)"),
    "half inf": (lambda s: s | {"norm.bias": s["norm.bias"].half() + math.inf}, "not finite"),
    "stride 0": (lambda s: s | {"norm.bias": torch.zeros(1).expand(1 << 40)}, "claims"),
}


@pytest.mark.parametrize("what", CONTENT)
def test_content_that_is_no_model_is_described(tmp_path, what):
    content, words = CONTENT[what]
    content = content(dict(weights())) if callable(content) and what not in ("module",) else content
    said = refusal(saved(tmp_path / "a.pth", content), **HEADS)
    assert words in said


def test_a_damaged_file_of_torch_is_noticed(tmp_path):
    whole = saved(tmp_path / "a.pth", {"model": weights()}).read_bytes()
    place = whole.index(weights()["decoder_pred.weight"].numpy().tobytes())
    for name, content in (("cut", whole[: len(whole) // 2]), ("end", whole[:-5]), ("bit", bytes(
            [*whole[:place], whole[place] ^ 1, *whole[place + 1 :]]))):
        (tmp_path / name).write_bytes(content)
        assert "not a whole file of torch.save" in refusal(tmp_path / name)


def test_places_that_hold_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.pth")
    assert "not a file" in refusal(tmp_path / "pipe.pth")
    assert "no good checkpoint" in refusal(tmp_path)
    assert "address on the web" in refusal("https://example.com/vit.pth")
    saved(tmp_path / "weights_final.pth", weights())
    said = refusal(tmp_path / "weights_fnal.pth")
    assert f"did you mean {tmp_path / 'weights_final.pth'}?" in said
    for name, near in (("tyni", "did you mean tiny"), ("tiny_64", "tiny64"), ("tiny46", "tiny64")):
        assert near in refusal(name)
    save_tensors(tmp_path / "model.safetensors", {"a": torch.zeros(2)}, {})
    assert "did you mean" in refusal(tmp_path) and "model.safetensors" in refusal(tmp_path)


# ---- what was made to do harm ----

class Runs:
    "Touches a file when it is unpickled."

    def __init__(self, call, *args):
        self.call, self.args = call, args

    def __reduce__(self):
        return self.call, self.args


def hostile(path: Path) -> dict[str, object]:
    return {
        "os": Runs(os.system, f"touch {path}"),
        "exec": Runs(exec, f"open({str(path)!r}, 'w')"),
        "subprocess": Runs(subprocess.call, ["touch", str(path)]),
        "open": Runs(open, str(path), "w"),
        "path": Runs(pathlib.Path.touch, path),
        "torch": Runs(torch.save, {}, str(path)),
        "numpy": Runs(np.save, str(path), np.zeros(2)),
    }


@pytest.mark.parametrize("what", hostile(Path()))
def test_nothing_is_run(tmp_path, what):
    bad = hostile(tmp_path / "ran")[what]
    contents = {"model": bad}, {"model": weights(), "args": argparse.Namespace(x=bad)}, bad
    for content in contents:
        for new in (True, False):
            path = saved(tmp_path / "a.pth", content, _use_new_zipfile_serialization=new)
            try:
                with warnings.catch_warnings(record=True) as seen:
                    warnings.simplefilter("always")
                    load_model(path, **HEADS)
                assert seen, "a foreign object is passed over without a word"
            except CheckpointError as e:
                assert "weights_only" not in str(e)
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(bad))
    refusal(tmp_path / "bare.pth")
    checkpoint = tmp_path / "run/checkpoints/step_00000001.safetensors"
    checkpoint.parent.mkdir(parents=True)
    saved(checkpoint, {"model": bad})
    saved(checkpoint.with_suffix(".optim"), {"model": bad})
    with pytest.raises(CheckpointError):
        RunFolder(tmp_path / "run").newest(say=lambda text: None)
    assert not (tmp_path / "ran").exists()


def torch_zip(data: bytes, compress: int = zipfile.ZIP_STORED, **more: bytes) -> bytes:
    "A file of torch.save around any pickle."
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compress) as file:
        for name, content in {"data.pkl": data, "version": b"3\n", **more}.items():
            file.writestr(f"a/{name}", content)
    return stream.getvalue()


def header(model: object, kind: str = "vicmae", tensors: dict | None = None) -> bytes:
    "A safetensors file without numbers that states a model."
    text = model if isinstance(model, str) else json.dumps(model)
    content = json.dumps({"__metadata__": {"kind": kind, "model": text}} | (tensors or {})).encode()
    return struct.pack("<Q", len(content)) + content


def bombs() -> dict[str, bytes]:
    "Small files that ask for much; each must cost neither memory nor time."
    tensor, many_bytes = b"\x80\x02}X\x05\x00\x00\x00modelc", b"(\x8a\x06\0\0\0\0\0\x10tR"
    many = {f"blocks.{i}.x": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
            for i in range(4_000)}
    wide = SIZES | HEADS | {"embed_dim": 1_000_000, "depth": 3}
    return {
        "deep key": torch_zip(b"\x80\x02})" + b"\x85" * 300_000 + b"K\x01s."),
        "deep pairs": torch_zip(b"\x80\x02}N" + b"N\x86" * 200_000 + b"K\x01s."),
        "deep lists": torch_zip(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."),
        "recursive list": torch_zip(b"\x80\x02]q\x00h\x00a."),
        "recursive dict": torch_zip(b"\x80\x02}q\x00X\x05\x00\x00\x00modelh\x00s."),
        "doubling": torch_zip(b"\x80\x02]q\x00" + b"".join(
            b"}(K\x01h%cK\x02h%cuq%c" % (i, i, i + 1) for i in range(60)) + b"."),
        "many objects": torch_zip(b"\x80\x02(" + b"}" * 1_000_100 + b"t."),
        "long number": torch_zip(b"\x80\x02\x8b\xff\xff\xff\x7f."),
        "long text": torch_zip(b"\x80\x02X\xff\xff\xff\x7fabc."),
        "no stack": torch_zip(b"\x80\x020000R."),
        "bytearray": torch_zip(b"\x80\x02cbuiltins\nbytearray\n" + many_bytes + b"."),
        "storage": torch_zip(tensor + b"torch\nFloatStorage\n" + many_bytes + b"s."),
        "packed": torch_zip(b"\x80\x02N." + bytes(60 << 20), zipfile.ZIP_DEFLATED),
        "depth": header(SIZES | HEADS | {"depth": 3_000_000}),
        "named depth": header(SIZES | HEADS | {"depth": 4_000}, tensors=many),
        "width": header(SIZES | HEADS | {"embed_dim": 10**8}),
        "a million wide": header(wide, tensors=dict(islice(many.items(), 99))),
        "classes": header({"classes": 10**9, "depth": 1}, "classifier"),
        "frames": header({"classes": 3, "num_frames": 10**12}, "classifier"),
        "nested": header("[" * 100_000),
        "huge header": struct.pack("<Q", 1 << 62) + b"{" + bytes(100),
    }


def open_all(folder: Path) -> None:
    "Open every file of a folder with little memory; a line for each. For a process of its own."
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    used = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    begun = used()
    for path in sorted(folder.iterdir()):
        try:
            rebuild(path, Classifier if path.name in ("classes", "frames") else ViCMAE)
            said = "LOADED"
        except CheckpointError as e:
            said = "refused" if path.name in str(e) and len(str(e)) < 900 else f"badly: {e}"
        with open(folder.with_suffix(".txt"), "a") as file:
            file.write(f"{path.name}: {said}, {used() - begun}\n")


def test_bombs_cost_neither_memory_nor_time(tmp_path):
    (tmp_path / "bombs").mkdir()
    for name, content in bombs().items():
        (tmp_path / "bombs" / name).write_bytes(content)
    child = get_context("fork").Process(target=open_all, args=(tmp_path / "bombs",))
    child.start()
    child.join(PATIENCE)
    lines = (tmp_path / "bombs.txt").read_text().splitlines()
    assert child.exitcode == 0, f"{child.exitcode} (None: out of time) after {lines[-1:]}"
    assert len(lines) == len(bombs()) and all(": refused, " in line for line in lines), lines
    assert int(lines[-1].rsplit(" ", 1)[1]) < 1000, lines  # MB


MODEL = SIZES | HEADS
ARGUMENTS = {
    "later version": (MODEL | {"registers": 4}, "registers"),
    "not JSON": ("{oops", "not JSON"),
    "a list": ([1], "[1]"),
    "null": ("null", "None"),
    "a word": (MODEL | {"num_heads": "4"}, "num_heads='4'"),
    "null heads": (MODEL | {"num_heads": None}, "num_heads=None"),
    "a fraction": (MODEL | {"depth": 1.5}, "depth=1.5"),
    "true": (MODEL | {"depth": True}, "depth=True"),
    "zero": (MODEL | {"patch_size": 0}, "patch_size=0"),
    "negative": (MODEL | {"embed_dim": -8}, "embed_dim=-8"),
    "no number": (MODEL | {"mask_ratio": math.nan}, "mask_ratio=nan"),
    "infinite": (MODEL | {"mlp_ratio": math.inf}, "mlp_ratio=inf"),
    "cold": (MODEL | {"temperature": 0}, "temperature=0"),
    "heads": (MODEL | {"num_heads": 3}, "3 heads"),
    "pool": (MODEL | {"pool": "median"}, "median"),
    "head": (MODEL | {"head": "none"}, "none"),
    "size": (MODEL | {"img_size": 17}, "img_size=17"),
    "shape": (MODEL | {"img_size": 32}, "misshapen"),
    "width": (MODEL | {"embed_dim": 16}, "misshapen"),
    "depth": (MODEL | {"depth": 2}, "missing"),
}


@pytest.mark.parametrize("what", ARGUMENTS)
def test_stated_arguments_are_compared_with_the_weights(tmp_path, what):
    model, words = ARGUMENTS[what]
    text = model if isinstance(model, str) else json.dumps(model)
    save_tensors(tmp_path / "a.safetensors", dict(weights()), {"kind": "vicmae", "model": text})
    assert words in refusal(tmp_path / "a.safetensors")


def test_arguments_of_classifiers_are_compared_too(tmp_path):
    small = dict(classes=["a", "b"], img_size=16, patch_size=8, embed_dim=8, depth=1, num_heads=2)
    model = Classifier(**small)
    for change, words in (({"classes": [1, 2]}, "classes"), ({"classes": 10**7}, "classes"),
                          ({"num_heads": 3}, "3 heads"), ({"head_norm": "group"}, "group"),
                          ({"num_frames": 4}, "misshapen"), ({"classes": "ab"}, "classes"),
                          ({"mask_ratio": 0.5}, "mask_ratio"), ({"classes": ["a", "a"]}, "name")):
        model.config = small | change
        save_model(tmp_path / "a.safetensors", model)
        with pytest.raises(CheckpointError, match=words):
            rebuild(tmp_path / "a.safetensors", Classifier)
    with pytest.raises(CheckpointError, match="holds a vicmae and not a classifier"):
        rebuild("tiny", Classifier)
    with pytest.raises(CheckpointError, match="no vicmae classifier"):
        rebuild(saved(tmp_path / "a.pth", weights()), Classifier)


# ---- a run's own files ----

NAMES_OF_RUN = ("config.json", "status.json", "metrics.jsonl", "evals.jsonl", "nonfinite.jsonl",
                "skipped.jsonl")
random.seed(0)
DAMAGE = {
    "noise": random.randbytes(3000),
    "cut": b'{"step": 1, "loss": 2.5, "path": "a", "reason": "b", "times": 1}\n{"step": 2, "lo',
    "zeros": bytes(3000),
    "types": b'{"step": "x", "steps": [1], "path": 7, "classes": 3, "global_batch": "b"}\n[1]\n3\n',
    "wild": b'{"step": 1e999, "loss": {}, "steps": true}\n{"step": -3, "loss": 1}\n{"step": 3, '
            b'"loss": [1], "seconds": "long"}\n{"step": 3, "loss": ' + b"9" * 4200 + b"}\n",
    "huge number": b'{"step": ' + b"1" + b"0" * 400 + b', "loss": 1' + b"0" * 400 + b"}\n",
    "deep": b"[" * 100_000 + b"\n" + b'{"a": ' * 100_000 + b"\n",
    "surrogate": b'{"state": "failed", "step": 1, "steps": 2, "reason": "\\ud800 \\u001b[31m"}\n',
    "UTF-16": '{"step": 1}\n'.encode("utf-16"),
    "CRLF": b'{"step": 1, "loss": 1}\r\n{"step": 2, "loss": 1}\r\n',
    "many keys": json.dumps({"step": 1} | {f"k{i}": i for i in range(20_000)}).encode() + b"\n",
    "disorder": b"".join(b'{"step": %d, "loss": %d}\n' % pair for pair in ((3, 0), (1, 1), (1, 2))),
    "empty": b"",
    "folder": None,
}
FIGURES = ("types", "wild", "empty")  # drawn as well, from rows of every kind


@pytest.fixture(scope="module")
def trained():
    model = vicmae_vit_debug(**SIZES, **HEADS)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    model(torch.randn(2, 2, 3, 16, 16), torch.rand(2, 2, 4)).loss_recon.backward()
    optimizer.step()
    return model, optimizer


def a_run(folder: Path, trained, steps: int = 9, **config) -> Path:
    "A run's folder after two steps."
    RunFolder(folder).save(*trained, 2, {"steps": steps, "blr": 0.1, **config})
    write_rows(folder / "metrics.jsonl", [
        {"step": s, "loss": 1.0, "seconds": 1.0, "data_s": 0.1, "other_s": 0.1} for s in (1, 2)])
    (folder / "config.json").write_text(json.dumps({"steps": steps, "blr": 0.1, **config}))
    return folder


@pytest.mark.parametrize("how", DAMAGE)
def test_a_runs_files_may_hold_anything(tmp_path, trained, how, capsys):
    run = a_run(tmp_path / "run", trained)
    for name in NAMES_OF_RUN:
        (run / name).unlink(missing_ok=True)
        (run / name).mkdir() if how == "folder" else (run / name).write_bytes(DAMAGE[how])
    reader = RunReader(run)  # somebody watches
    reader.poll()
    assert reader.step >= 0 and "\x1b" not in " ".join(headline(reader))
    text_frame(reader).encode()
    if how in FIGURES:
        draw_run(reader).canvas.draw()
    settings, note = RunFolder(run).settings()  # and then the run goes on
    if how not in ("surrogate", "many keys", "CRLF", "disorder", "cut", "wild", "huge number"):
        assert settings == {"steps": 9, "blr": 0.1} and "config.json" in note
    assert set(RunFolder(run).status()) <= {"state", "step", "steps", "reason", "time"}
    report = ErrorReport(run / "skipped.jsonl")
    assert all(isinstance(path, str) for path in report.files) and isinstance(report.summary(), str)
    RunFolder(run).keep_damaged()
    metrics = MetricsFile(run / "metrics.jsonl", 2)
    metrics.add({"step": 3, "loss": 0.5})
    rows = RunFolder(run).metrics()
    assert rows[-1] == {"step": 3, "loss": 0.5} and all(row["step"] <= 3 for row in rows)
    assert [row["step"] for row in rows] == sorted({row["step"] for row in rows})
    if how in FIGURES:
        draw_losses(RunFolder(run))
    time_shares(rows)
    said = capsys.readouterr().out
    if how in ("noise", "types", "deep", "folder"):
        kept = {path.name for path in run.glob("*.damaged1")}
        assert {"config.json.damaged1", "metrics.jsonl.damaged1", "skipped.jsonl.damaged1"} <= kept
        assert how == "folder" or (run / "config.json.damaged1").read_bytes() == DAMAGE[how]
        assert all(f"{run / name}" in said for name in ("config.json", "metrics.jsonl"))


def test_a_resume_compares_with_the_settings_that_are_left(tmp_path, trained):
    recipe = get_recipe("debug")
    values = {name: getattr(recipe, name) for name in method_of(PretrainConfig)}
    values |= {"seed": 0, "data": "d", "steps": 9}
    run = a_run(tmp_path / "run", trained, **values)
    (run / "config.json").write_text('{"steps": 9, "bl')
    again = replace(recipe, out=str(run), data="d", resume=True, steps=None, seed=0)
    assert open_run(again).steps == 9
    with pytest.raises(ValueError, match="weight_decay was"):
        open_run(replace(again, weight_decay=77.0))
    with pytest.raises(ValueError, match="holds a run already"):
        open_run(replace(again, resume=False))


def test_checkpoints_that_are_no_use_are_named_and_never_trained_over(tmp_path, trained):
    run, said = a_run(tmp_path / "run", trained), []
    RunFolder(run).save(*trained, 4, {}, keep=9)
    newest = run / "checkpoints/step_00000004.safetensors"
    whole = newest.read_bytes(), newest.with_suffix(".optim").read_bytes()

    def passed_over(word: str) -> None:
        assert RunFolder(run).newest(said.append).step == 2 and word in said.pop()
        newest.write_bytes(whole[0]), newest.with_suffix(".optim").write_bytes(whole[1])

    for path, name in ((newest, "cls_token"), (newest.with_suffix(".optim"), "exp_avg/cls_token")):
        tensors, metadata = read_tensors(path)
        tensors[name] = torch.full_like(tensors[name], math.nan)
        save_tensors(path, tensors, {k: v for k, v in metadata.items() if k != "crc32"})
        passed_over(f"not finite ({name})")
    newest.with_suffix(".optim").unlink()
    passed_over(".optim: is gone")
    newest.write_bytes((run / "checkpoints/step_00000002.safetensors").read_bytes())
    passed_over("renamed")
    saved(newest, {"model": weights()})
    passed_over("not a safetensors file")
    for path in run.glob("checkpoints/*.safetensors"):
        path.write_bytes(b"gone")
    with pytest.raises(CheckpointError, match="none of its checkpoints can be used"):
        RunFolder(run).newest(said.append)


def test_names_that_are_no_utf8_go_through_a_runs_files(tmp_path):
    name = os.fsdecode(b"caf\xe9.mp4")
    write_rows(tmp_path / "a.jsonl", [{"step": 1, "files": [name]}])
    assert read_rows(tmp_path / "a.jsonl").rows[0]["files"] == [name]
    report = ErrorReport()
    report.add([{"path": name, "reason": "is empty", "step": 1, "place": 0}])
    report.write(tmp_path / "skipped.jsonl")
    assert list(ErrorReport(tmp_path / "skipped.jsonl").files) == [name]
    (tmp_path / "c.json").write_text(json.dumps({"data": name}))
    assert read_object(tmp_path / "c.json") == {"data": name}


def test_weights_that_are_not_finite_are_named_once_and_by_all(tmp_path):
    model = load_model("tiny")
    with torch.no_grad():
        model.norm.bias[3] = math.inf
    save_model(tmp_path / "a.safetensors", model)
    assert "1 of its" in refusal(tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="norm.bias"):
        open_weights(tmp_path / "a.safetensors")
