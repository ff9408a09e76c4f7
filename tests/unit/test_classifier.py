"""The classifier: inflation at full size, layers against timm, views in chunks, ways to run it."""
import inspect
import json
import subprocess

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn
from support.waiting import PATIENCE

from vicmae.model.autoencoder import MaskedAutoencoder
from vicmae.backbone.checkpoints import load_model
from vicmae.finetuning.classifier import (Classifier, average_views, classify_views,
                                          from_pretrained, inflate, layer_groups)
from vicmae.backbone.features import extract_features
from vicmae.train.parallel import kept_bytes
from vicmae.model.vicmae import ViCMAE, vicmae_vit_debug
from vicmae.data.views import normalize
from vicmae.errors import CheckpointError
from vicmae.train.weights import load_strict
from support import torchrun

try:
    from timm.optim import param_groups_layer_decay
except ImportError:  # timm before 1.0.13
    from timm.optim.optim_factory import param_groups_layer_decay

pytestmark = pytest.mark.floats

SMALL = dict(img_size=32, patch_size=8, embed_dim=48, depth=3, num_heads=4)
BASE = dict(projector_hidden_dim=8, projector_out_dim=8, decoder_depth=1)  # what is not compared


@pytest.fixture(scope="module")
def tiny() -> ViCMAE:
    return load_model("tiny")


def after_blocks(model: nn.Module, views: torch.Tensor) -> list[torch.Tensor]:
    "Tokens after each block."
    caught = []
    hooks = [b.register_forward_hook(lambda m, x, y: caught.append(y)) for b in model.blocks]
    with torch.no_grad():
        getattr(model, "forward_tokens", model.forward_features)(views)
    for hook in hooks:
        hook.remove()
    return caught


def still_clip_errors(model: nn.Module, picture: torch.Tensor, reference: list, cls: str) -> list:
    "Largest difference in patch tokens between a still clip of 16 frames and `reference`."
    video = from_pretrained(model, 2, num_frames=16, cls=cls).eval()
    tokens = after_blocks(video, picture[:, None].expand(-1, 16, -1, -1, -1))
    steps = [x[:, video.num_cls:].unflatten(1, (8, -1)) for x in tokens]
    assert len(steps) == len(reference) == len(model.blocks)
    return [(a - b[:, None]).abs().max().item() for a, b in zip(steps, reference)]


# ---------------------------------------------------------------- inflation
def test_still_clip_is_its_picture_in_vit_base() -> None:
    torch.manual_seed(0)
    model, picture = ViCMAE(**BASE).eval(), torch.randn(1, 3, 224, 224)
    patches = [x[:, 1:] for x in after_blocks(model, picture)]
    repeated = still_clip_errors(model, picture, patches, "repeat")
    single = still_clip_errors(model, picture, patches, "one")
    print(f"ViT-B/16: repeat {max(repeated):.1e}, one {min(single):.1e} to {max(single):.1e}")
    assert max(repeated) < 1e-4
    assert min(single) > 1e-2  # so the test can fail


@pytest.mark.parametrize("cls", ["repeat", "drop", "one"])
def test_still_clip_in_a_trained_model(tiny: ViCMAE, cls: str) -> None:
    picture = normalize(torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8))
    flat = from_pretrained(tiny, 2, cls="drop" if cls == "drop" else "repeat").eval()
    reference = [x[:, flat.num_cls:] for x in after_blocks(flat, picture)]
    errors = still_clip_errors(tiny, picture, reference, cls)
    assert min(errors) > 1e-2 if cls == "one" else max(errors) < 1e-4, errors


def test_kernels_that_are_not_scaled_are_caught(tiny: ViCMAE) -> None:
    picture = torch.randn(1, 3, 32, 32)
    still = picture[:, None].expand(-1, 4, -1, -1, -1)
    video = from_pretrained(tiny, 2, num_frames=4).eval()
    right = video.forward_features(still)
    weight = video.patch_embed["proj"].weight
    torch.testing.assert_close(weight, inflate(tiny.patch_embed.proj.weight, 2))
    with torch.no_grad():
        weight *= 2
    assert (video.forward_features(still) - right).abs().max() > 1e-2


def test_picture_classifier_is_the_pretrained_encoder(tiny: ViCMAE) -> None:
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    model = from_pretrained(tiny, 10).eval()
    torch.testing.assert_close(model.forward_tokens(normalize(images)),
                               tiny.forward_features(normalize(images)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.forward_features(normalize(images)),
                               extract_features(tiny, images), rtol=1e-4, atol=1e-5)
    own, given = model.state_dict(), tiny.state_dict()
    shared = {k for k in own if not k.startswith(("head.", "fc_norm."))}
    assert shared <= set(given) and all(torch.equal(own[k], given[k]) for k in shared)


def test_defaults_are_those_of_pretraining() -> None:
    "A model's config holds what was given; what was not must mean the same here."
    ours, theirs = (inspect.signature(f).parameters for f in (Classifier, MaskedAutoencoder))
    for name in "img_size patch_size in_chans embed_dim depth num_heads mlp_ratio".split():
        assert ours[name].default == theirs[name].default, name


def test_weights_are_all_accounted_for(tiny: ViCMAE) -> None:
    odd = vicmae_vit_debug()
    odd.extra = nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match="2 unknown .*extra.weight"):
        from_pretrained(odd, 3)
    del odd.extra, odd.blocks[1]
    with pytest.raises(CheckpointError, match="missing .*blocks.2"):
        from_pretrained(odd, 3)
    before = {k: v.clone() for k, v in tiny.state_dict().items()}
    model = from_pretrained(tiny, 3)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    assert all(torch.equal(v, before[k]) for k, v in tiny.state_dict().items())  # a copy


def test_another_size_has_new_places(tiny: ViCMAE) -> None:
    model = from_pretrained(tiny, 3, img_size=48).eval()
    assert model.pos_embed.shape == (1, 37, 96) and model(torch.randn(2, 3, 48, 48)).shape == (2, 3)
    grid = model.pos_embed[0, 1:].reshape(6, 6, 96)[:4, :4].flatten(0, 1)
    torch.testing.assert_close(grid, tiny.pos_embed[0, 1:])


@pytest.mark.parametrize("options", [
    dict(classes=["a", "b"]), dict(classes=4, num_frames=8, cls="drop", drop_path=0.2, dropout=0.1),
    dict(classes=3, num_frames=2, pool="cls", head_norm="batch"),
    dict(classes=3, num_frames=6, tubelet=3, head_norm="none")])
def test_config_and_weights_rebuild_it(options: dict) -> None:
    torch.manual_seed(1)
    model = Classifier(**options, **SMALL)
    nn.init.normal_(model.head.weight)
    again = Classifier(**json.loads(json.dumps(model.config)))
    load_strict(again, model.state_dict(), "test")
    shape = (2, 3, 32, 32) if model.num_frames == 1 else (2, model.num_frames, 3, 32, 32)
    views = torch.randn(shape)
    torch.testing.assert_close(again.eval()(views), model.eval()(views), rtol=1e-5, atol=1e-6)
    assert again.classes == model.classes and again.config == model.config


@pytest.mark.parametrize("wrong, words", [
    (dict(classes=0), "0 classes"), (dict(classes=["a", "a"]), "2 classes with 1 names"),
    (dict(classes=2, cls="all"), "choose one of repeat"),
    (dict(classes=2, pool="max"), "mean, cls"), (dict(classes=2, img_size=30), "multiple"),
    (dict(classes=2, cls="drop", pool="cls"), "needs a"),
    (dict(classes=2, num_frames=7), "multiple of tubelet=2"),
    (dict(classes=2, head_norm="group"), "layer, batch, none")])
def test_wrong_arguments_get_one_sentence(wrong: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Classifier(**{**SMALL, **wrong})


def test_wrong_views_get_one_sentence() -> None:
    pictures, clips = Classifier(2, **SMALL), Classifier(2, num_frames=4, **SMALL)
    for model, shape in ((pictures, (1, 2, 3, 32, 32)), (clips, (1, 3, 32, 32)),
                         (clips, (1, 8, 3, 32, 32)), (pictures, (1, 3, 40, 40))):
        with pytest.raises(ValueError, match="this model takes"):
            model(torch.zeros(shape))
    assert pictures(torch.zeros(1, 1, 3, 32, 32)).shape == (1, 2)  # a clip of one frame


# ---------------------------------------------------------------- layers
@pytest.mark.parametrize("pool", ["avg", "token"])
def test_layer_factors_are_those_of_timm(pool: str) -> None:
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=5, global_pool=pool)
    ours = Classifier(5, embed_dim=192, num_heads=3)
    names = {p: n for m in (ours, theirs) for n, p in m.named_parameters()}
    factors = [{names[p]: (g["lr_scale"], g["weight_decay"]) for g in groups for p in g["params"]}
               for groups in (layer_groups(ours, 0.05, 0.65),
                              param_groups_layer_decay(theirs, 0.05, theirs.no_weight_decay(),
                                                       layer_decay=0.65))]
    common = factors[0].keys() & factors[1].keys()
    assert len(common) >= 12 * 12 + 7  # blocks, embedding, [CLS], a norm, head
    for name in common:
        assert factors[0][name] == pytest.approx(factors[1][name]), name


def test_frozen_parts_are_in_no_group() -> None:
    model = Classifier(3, num_frames=4, cls="drop", **SMALL)
    grouped = [p for g in layer_groups(model, 0.05, 0.75) for p in g["params"]]
    trained = {n for n, p in model.named_parameters() if any(p is q for q in grouped)}
    assert len(grouped) == len(trained)
    assert {n for n, _ in model.named_parameters()} - trained == {"pos_embed", "cls_token"}
    model.freeze()
    assert sum(len(g["params"]) for g in layer_groups(model, 0.05, 0.75)) == 4  # fc_norm, head
    (only,) = [g for g in layer_groups(Classifier(3, **SMALL), 0.1, 1.0)
               if g["layer"] == 0 and g["weight_decay"]]
    assert only["lr_scale"] == 1 and len(only["params"]) == 1  # the patch embedding


# ---------------------------------------------------------------- views
@pytest.mark.parametrize("num_frames, samples, views",
                         [(1, 5, 1), (4, 3, 3), (2, 1, 21), (1, 0, 4)])
def test_batched_views_are_single_views(num_frames: int, samples: int, views: int) -> None:
    torch.manual_seed(0)
    model = Classifier(7, num_frames=num_frames, drop_path=0.3, dropout=0.3, **SMALL).train()
    nn.init.normal_(model.head.weight)
    frames = (num_frames,) * (num_frames > 1)
    data = torch.randint(0, 256, (samples, views, *frames, 3, 32, 32), dtype=torch.uint8)
    single = torch.stack([torch.stack([classify_views(model, data[n:n + 1, v:v + 1], chunk=1)[0]
                                       for v in range(views)]).mean(0) for n in range(samples)]
                         ) if samples else torch.zeros(0, 7)
    for chunk in (1, 4, 1000):
        together = classify_views(model, data, chunk=chunk)
        assert together.shape == (samples, 7) and together.dtype == torch.float32
        torch.testing.assert_close(together, single, rtol=0, atol=1e-5)
        torch.testing.assert_close(together.sum(1), torch.ones(samples))
    assert model.training and model.blocks[1].training  # as it was before


def test_chunks_bound_what_is_computed_at_once() -> None:
    model, seen = Classifier(3, num_frames=2, **SMALL), []
    model.blocks[0].register_forward_pre_hook(lambda m, x: seen.append(len(x[0])))
    classify_views(model, torch.zeros(2, 21, 2, 3, 32, 32, dtype=torch.uint8), chunk=8)
    assert seen == [8] * 5 + [2]
    with pytest.raises(ValueError, match="V >= 1"):
        classify_views(model, torch.zeros(2, 0, 2, 3, 32, 32, dtype=torch.uint8))


def test_bf16_and_several_labels() -> None:
    torch.manual_seed(0)
    model = Classifier(4, **SMALL)
    nn.init.normal_(model.head.weight, std=0.1)
    views = torch.randint(0, 256, (3, 5, 3, 32, 32), dtype=torch.uint8)
    bf16 = classify_views(model, views, lambda: torch.autocast("cpu", torch.bfloat16))
    torch.testing.assert_close(bf16, classify_views(model, views), rtol=0, atol=0.03)
    logits = torch.randn(2, 3, 4)
    torch.testing.assert_close(average_views(logits, multi_label=True), logits.sigmoid().mean(1))
    assert average_views(logits.double()).dtype == torch.float64


# ---------------------------------------------------------------- ways to run it
def gradients(model: nn.Module, views: torch.Tensor, targets: torch.Tensor) -> dict:
    model.zero_grad()
    torch.manual_seed(3)  # of drop path and dropout
    F.cross_entropy(model(views), targets).backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_activation_checkpointing_changes_memory_alone() -> None:
    torch.manual_seed(0)
    model = Classifier(3, num_frames=4, drop_path=0.4, dropout=0.2, **SMALL).train()
    nn.init.normal_(model.head.weight)
    views, targets = torch.randn(4, 4, 3, 32, 32), torch.tensor([0, 1, 2, 0])
    plain = gradients(model, views, targets)
    kept = kept_bytes(lambda: model(views), [*model.parameters()])
    model.activation_checkpointing = True
    again = gradients(model, views, targets)
    assert kept_bytes(lambda: model(views), [*model.parameters()]) < kept / 3
    assert plain.keys() == again.keys() >= {"time_embed", "cls_token", "patch_embed.proj.weight"}
    for name in plain:
        torch.testing.assert_close(again[name], plain[name], rtol=1e-4, atol=1e-5)


def test_compiled_blocks_give_the_same() -> None:
    torch.manual_seed(0)
    model = Classifier(3, num_frames=4, **SMALL)
    nn.init.normal_(model.head.weight)
    views, targets = torch.randn(2, 4, 3, 32, 32), torch.tensor([0, 1])
    plain = gradients(model, views, targets)
    for block in model.blocks:
        block.compile(backend="aot_eager")
    compiled = gradients(model, views, targets)
    assert plain.keys() == compiled.keys()
    for name in plain:
        torch.testing.assert_close(compiled[name], plain[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("head_norm", ["layer", "batch"])
def test_frozen_backbone_stays(tiny: ViCMAE, head_norm: str) -> None:
    torch.manual_seed(0)
    model = from_pretrained(tiny, 3, head_norm=head_norm, drop_path=0.5, dropout=0.1)
    model.freeze().train()
    views, targets = torch.randn(8, 3, 32, 32), torch.arange(8) % 3
    kept = kept_bytes(lambda: model(views), [*model.parameters()])
    assert kept < 50_000, "no block keeps anything for a backward pass"
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = torch.optim.AdamW(layer_groups(model, 0.05, 1.0), lr=0.1)
    for _ in range(2):
        gradients(model, views, targets)
        optimizer.step()
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed and all(k.startswith(("head.", "fc_norm.")) for k in changed), changed
    torch.testing.assert_close(model.forward_features(views),
                               tiny.forward_features(views)[:, 1:].mean(1),
                               rtol=1e-4, atol=1e-5)  # drop path is off


RANKS = """
import sys, torch, torch.distributed as dist, torch.nn.functional as F
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from vicmae.finetuning.classifier import Classifier, classify_views
from vicmae.train.distributed import relative_errors
dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(5)
views, targets = torch.randn(8, 4, 3, 32, 32), torch.arange(8) % 3
for cls in ("repeat", "drop", "one"):
    for how in ("ddp", "fsdp"):
        torch.manual_seed(0)
        config = dict(embed_dim=48, depth=2, num_heads=4, num_frames=4, cls=cls)
        alone, model = (Classifier(3, 32, 8, **config) for _ in range(2))
        torch.nn.init.normal_(alone.head.weight)
        model.load_state_dict(alone.state_dict())
        F.cross_entropy(alone(views), targets).backward()
        if how == "ddp":
            run = DistributedDataParallel(model)
        else:
            mesh = init_device_mesh("cpu", (2,))
            for block in model.blocks: fully_shard(block, mesh=mesh)
            run = fully_shard(model, mesh=mesh)
        for _ in range(2):                        # a second pass fails if a parameter was unused
            model.zero_grad()
            F.cross_entropy(run(views[rank::2]), targets[rank::2]).backward()
        full = lambda g: g.full_tensor() if hasattr(g, "full_tensor") else g
        true, found = ({n: full(p.grad) for n, p in m.named_parameters() if p.grad is not None}
                       for m in (alone, model))
        assert true.keys() == found.keys()
        worst = max(relative_errors(found, true, floor=0.1).values())
        bytes_ = torch.zeros(1, 2, 4, 3, 32, 32, dtype=torch.uint8)
        off = (classify_views(model, bytes_) - classify_views(alone, bytes_)).abs().max().item()
        if rank == 0: print(cls, how, worst, off, flush=True)
dist.destroy_process_group()
"""


def test_two_ranks_have_the_gradients_of_one(tmp_path) -> None:
    script = tmp_path / "ranks.py"
    script.write_text(RANKS)
    command = torchrun(2)
    done = subprocess.run([*command, str(script)], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [line.split() for line in done.stdout.splitlines() if line.strip()]
    assert len(rows) == 6, done.stdout
    for cls, how, worst, off in rows:
        assert float(worst) < 1e-4 and float(off) < 1e-5, (cls, how, worst, off)
