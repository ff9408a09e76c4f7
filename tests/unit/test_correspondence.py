"""Attention that adds up in any precision; matches that are right where motion is known by hand."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from support.waiting import PATIENCE

from vicmae.look.attention import (
    as_images,
    attention_from,
    attention_maps,
    block_tokens,
    object_share,
    overlay,
    patch_cover,
    patch_features,
    pca_colours,
    rollout,
    show_attention,
    show_patch_pca,
)
from vicmae.backbone.checkpoints import load_model
from vicmae.look.match import (
    center_features,
    feature_maps,
    find_matches,
    match_accuracy,
    match_patch,
    match_scores,
    match_table,
    patch_centers,
    patch_pixels,
    show_feature_map,
    show_match,
    show_matches,
    show_similarity,
    similarity_matrix,
    true_matches,
)
from vicmae.model.vicmae import vicmae_vit_debug
from vicmae.data.world import Clip, correspond, make_clip

pytestmark = pytest.mark.floats


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return vicmae_vit_debug().eval()


@pytest.fixture(scope="module")
def frames():
    return make_clip(3, "val", 6, 64).frames


def sliding_clip(seed: int, offsets: list[tuple[int, int]], size: int = 64) -> Clip:
    """A window (x, y offsets in pixels) moving over a large picture of noise: all of it object."""
    rng = np.random.default_rng(seed)
    canvas = rng.integers(0, 256, (3 * size, 3 * size, 3), np.uint8)
    cut = [canvas[size + y : 2 * size + y, size + x : 2 * size + x] for x, y in offsets]
    poses = np.array([[[1, 0, -x], [0, 1, -y]] for x, y in offsets], np.float32)
    masks = np.ones((len(offsets), size, size), bool)
    return Clip(np.stack(cut), masks, poses, 0, -1, 0, seed)


OFFSETS = [(0, 0), (8, 0), (8, -16), (-24, 8), (0, 40), (-56, -56)]  # each step another one


# ---------------------------------------------------------------------------- correspondence


@pytest.mark.parametrize("center", ["none", "mean"])
def test_translation_by_whole_patches_is_matched_exactly(center):
    clips = [sliding_clip(seed, OFFSETS) for seed in range(3)]
    for gap in (1, 2, 3, 4, -1, -2, -3, -4):
        (score,) = match_accuracy(patch_pixels, clips, [gap], center=center, starts=6)
        assert score.count and score.accuracy == 1.0, (gap, score)
        assert score.moved == 1.0 or np.isnan(score.moved)
        assert score.stay < 1  # some of these steps are longer than a patch


def test_every_match_of_a_translation_is_the_patch_it_went_to():
    clip = sliding_clip(7, OFFSETS)
    features = patch_pixels(clip.frames)
    for a, (xa, ya) in enumerate(OFFSETS):
        for b, (xb, yb) in enumerate(OFFSETS):
            right, down = (xa - xb) // 8, (ya - yb) // 8  # the window's way, reversed
            expected = [
                8 * row + col
                for row in range(8)
                for col in range(8)
                if 0 <= row + down < 8 and 0 <= col + right < 8
            ]
            patches, places = true_matches(clip, a, b)
            assert patches.tolist() == expected
            for patch, place in zip(patches, places):
                best, similarity = match_patch(features[a], features[b], int(patch))
                assert best == patch + 8 * down + right
                assert np.allclose(patch_centers(8, 8)[best], place)
                assert similarity[best] == pytest.approx(1, abs=1e-5)


def test_one_patch_off_is_right_and_a_bit_more_is_wrong():
    for off, right in (((8, 0), 1.0), ((9, 0), 0.0), ((5, 5), 1.0), ((-6, 6), 0.0)):
        still = sliding_clip(0, [(0, 0), (0, 0)])  # every patch is found where it was
        still.poses[1, :, 2] += off  # while the truth says that it went there
        (score,) = match_accuracy(patch_pixels, [still], [1], center="none", starts=1)
        assert score.count and score.accuracy == right == score.stay, (off, score)


def test_both_orders_of_frames_are_inverse_to_each_other():
    asked = 0
    for seed in range(12):
        clip = make_clip(seed, "val", 16, 64)
        for a, b in ((2, 9), (9, 2), (0, 15), (15, 0)):
            patches, places = true_matches(clip, a, b)
            back = correspond(clip.poses[b], clip.poses[a], places)
            assert np.allclose(back, patch_centers(8, 8)[patches], atol=1e-3)
            asked += len(patches)
    assert asked > 200
    clips = [make_clip(seed, "val", 16, 64) for seed in range(4)]
    played_back = [
        Clip(c.frames[::-1].copy(), c.masks[::-1], c.poses[::-1], c.object, c.motion, 0, c.seed)
        for c in clips
    ]
    (back,) = match_accuracy(patch_pixels, clips, [-5], starts=3)
    (forward,) = match_accuracy(patch_pixels, played_back, [5], starts=3)
    assert back[1:] == pytest.approx(forward[1:])


def test_hidden_patches_are_not_asked_for():
    clip = sliding_clip(1, [(0, 0), (8, 0)])
    clip.masks[0, :32] = False  # the upper half is hidden in a
    clip.masks[1, :, 32:] = False  # the right half is hidden in b
    patches, places = true_matches(clip, 0, 1)
    assert {int(p) // 8 for p in patches} == {4, 5, 6, 7}
    assert (places[:, 0] < 32).all() and len(patches) == 4 * 4
    clip.masks[:] = False
    assert len(true_matches(clip, 0, 1)[0]) == 0
    (score,) = match_accuracy(patch_pixels, [clip], [1])
    assert score.count == 0 and np.isnan(score.accuracy)


def test_counted_chance_is_the_rate_of_a_blind_pick():
    clips = [make_clip(seed, "val", 16, 64) for seed in range(8)]
    rng = np.random.default_rng(0)
    blind = lambda frames: torch.tensor(rng.normal(size=(len(frames), 64, 16)))
    scores = match_accuracy(blind, clips, [1, 3, 9], starts=6)
    count = sum(s.count for s in scores)
    hits, luck = (sum(s.count * x for s, x in zip(scores, v)) / count for v in
                  ([s.accuracy for s in scores], [s.chance for s in scores]))
    assert abs(hits - luck) < 4 * (luck * (1 - luck) / count) ** 0.5
    assert 0.03 < luck < np.pi / 64 + 0.01


def test_matches_of_one_pair_add_up_to_the_score_and_are_drawn(model):
    clip = make_clip(9, "val", 16, 64)
    features = center_features(patch_features(model, clip.frames))
    patches, places, best, right = find_matches(clip, features, 0, 8)
    off = np.linalg.norm(patch_centers(8, 8)[best] - places, axis=1)
    assert len(patches) and np.array_equal(right, off <= 8)
    (score,) = match_accuracy(model, [clip], [8], starts=1)
    assert score.count == len(patches) and score.accuracy == pytest.approx(right.mean())
    assert np.isnan(score.error)  # one clip says nothing about other clips
    fig = show_matches({"model": model, "pixels": patch_pixels}, clip, 0, 8)
    assert f"{right.sum()} of {len(right)}" in fig.axes[1].get_title() and len(fig.axes) == 3


def test_error_counts_clips_and_not_patches():
    clips = [make_clip(seed, "val", 16, 64) for seed in range(6)]
    (once,) = match_accuracy(patch_pixels, clips, [4], center="none")
    (twice,) = match_accuracy(patch_pixels, [*clips, *clips], [4], center="none")
    assert twice.moved == pytest.approx(once.moved) and once.error > 0
    assert twice.error == pytest.approx(once.error * (5 / 11) ** 0.5)  # n - 1 against 2 n - 1
    (same,) = match_accuracy(patch_pixels, [clips[0]] * 3, [4], center="none")
    assert same.error == pytest.approx(0)  # no clip differs from another


def test_the_command_of_the_notebook_prints_what_the_functions_give():
    code = (
        "from vicmae.look.match import *; print(match_table(match_scores('tiny', num_clips=6)))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          timeout=PATIENCE)
    assert told.returncode == 0, told.stderr
    assert told.stdout.strip() == match_table(match_scores("tiny", num_clips=6)).strip()
    assert "random weights" in told.stdout and "nan" not in told.stdout


def test_similarity_with_two_heads_is_not_symmetric_and_keeps_its_order(frames):
    torch.manual_seed(0)
    apart = vicmae_vit_debug(shared_heads=False).eval()
    pairs = np.stack([frames[:2], frames[2:4], frames[4:6]])
    matrix = similarity_matrix(apart, pairs)
    assert matrix.shape == (6, 6) and not torch.allclose(matrix, matrix.T, atol=1e-4)
    swapped = similarity_matrix(apart, pairs[[1, 0, 2]])
    order = torch.tensor([1, 0, 2, 4, 3, 5])
    assert torch.allclose(swapped, matrix[order][:, order], atol=1e-5)
    assert len(show_similarity(apart, pairs, both=True).axes) == 2


@pytest.mark.filterwarnings("error")
def test_feature_maps_of_few_samples():
    rng = np.random.default_rng(0)
    for count in (4, 11):
        maps = feature_maps(torch.tensor(rng.normal(size=(count, 16))))
        assert all(v.shape == (count, 2) and np.isfinite(v).all() for v in maps.values())
    features = torch.tensor(rng.normal(size=(30, 8)))
    fig = show_feature_map(features, rng.integers(0, 3, 30), ["a", "b", "c"])
    assert [t.get_text() for t in fig.legends[0].get_texts()] == ["a", "b", "c"]
    both = {"one": features, "other": features + 1}
    titles = [ax.get_title() for ax in show_feature_map(both, rng.integers(0, 3, 30), "abc").axes]
    assert [t.split()[0] for t in titles] == ["one", "one", "other", "other"]


# ---------------------------------------------------------------------------- attention


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_rows_sum_to_one_in_every_precision(dtype, frames):
    torch.manual_seed(0)
    low = vicmae_vit_debug().eval().to(dtype)
    maps = attention_maps(low, frames)
    assert maps.dtype == torch.promote_types(dtype, torch.float32)
    assert torch.allclose(maps.sum(-1), torch.ones_like(maps[..., 0]), atol=1e-5)
    assert torch.allclose(rollout(maps).sum(-1), torch.ones_like(maps[0, :, 0, :, 0]), atol=1e-5)


def test_rows_sum_to_one_under_autocast(model, frames):
    with torch.autocast("cpu", torch.bfloat16):
        maps = attention_maps(model, frames)
    assert torch.allclose(maps.sum(-1), torch.ones(maps.shape[:-1]), atol=1e-5)
    assert torch.allclose(maps, attention_maps(model, frames), atol=0.02)


def test_sharp_attention_does_not_overflow(frames):
    torch.manual_seed(0)
    sharp = vicmae_vit_debug().eval()
    with torch.no_grad():
        for block in sharp.blocks:
            block.attn.qkv.weight.mul_(100)
    maps = attention_maps(sharp, frames)
    assert torch.isfinite(maps).all() and maps.max() > 0.99


def test_the_model_is_left_as_it_was_even_when_a_block_fails(model, frames):
    def fail(module, inputs):
        raise RuntimeError("stop here")

    handle = model.blocks[1].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="stop here"):
        attention_maps(model, frames)
    handle.remove()
    assert not any(b._forward_hooks or b._forward_pre_hooks for b in model.blocks)
    expected = model.forward_features(as_images(model, frames))
    model.train()
    tokens = block_tokens(model, frames)
    assert model.training and not tokens.requires_grad
    model.eval()
    assert torch.allclose(model.norm(tokens[-1]), expected, atol=1e-5)


def test_rollout_multiplies_the_later_block_from_the_left():
    first, second = torch.eye(4), torch.eye(4)
    first[1], second[3] = torch.eye(4)[2], torch.eye(4)[1]  # block 1: 1 reads 2; block 2: 3 reads 1
    maps = torch.stack([first, second])[:, None, None]
    flow = rollout(maps)[0]
    assert flow[3].tolist() == [0, 0.25, 0.25, 0.5]  # 3 read 1, which had read 2
    assert rollout(maps.flip(0))[0][3, 2] == 0  # the other way round nothing gets there


def test_attention_is_the_same_from_a_number_and_from_a_place(model, frames):
    maps = attention_maps(model, frames)
    assert torch.equal(attention_from(maps, 19), attention_from(maps, (2, 3)))
    assert torch.equal(attention_from(maps, 19), maps[..., 20, 1:])
    each = torch.stack([attention_from(maps, i) for i in range(64)])
    assert torch.allclose(each.mean(0), attention_from(maps), atol=1e-6)


def test_frames_and_normalised_tensors_give_the_same(model, frames):
    images = as_images(model, frames)
    assert torch.equal(attention_maps(model, images), attention_maps(model, frames))
    assert torch.equal(patch_features(model, frames[0]), patch_features(model, images[:1]))
    assert torch.equal(patch_features(model, torch.tensor(frames)), patch_features(model, frames))


def test_object_share_of_extremes():
    masks = np.zeros((2, 16, 16), bool)
    masks[0, :4, :4] = masks[1, 12:, 12:] = True
    cover = patch_cover(masks, 4)
    assert cover.sum(1).tolist() == [1, 1] and cover[0, 0] == cover[1, 15] == 1
    looking = cover[:, None].expand(2, 3, 16)  # frames, heads
    assert object_share(looking, cover).tolist() == [1, 1, 1]
    assert object_share(looking, cover.roll(1, 0)).tolist() == [0, 0, 0]


def test_colours_of_a_pca_do_not_depend_on_signs_or_on_chance(model, frames):
    features = patch_features(model, frames)
    colours = pca_colours(features)
    assert torch.equal(colours, pca_colours(features.clone()))
    assert colours.min() == 0 and colours.max() == 1 and colours.shape == (6, 64, 3)
    assert torch.allclose(pca_colours(features.flip(0)), colours.flip(0), atol=1e-4)
    assert torch.isfinite(pca_colours(torch.ones(2, 4, 5))).all()


def test_figures_for_every_kind_of_model_and_medium(tmp_path, frames):
    from PIL import Image

    path = tmp_path / "picture.png"
    Image.fromarray(frames[0]).resize((90, 70)).save(path)
    for name in ("tiny", "tiny64"):
        shipped = load_model(name)
        blocks, heads = len(shipped.blocks), shipped.blocks[0].attn.num_heads
        drawn = lambda fig: sum(bool(ax.images) for ax in fig.axes)
        assert drawn(show_attention(shipped, path, (1, 2))) == blocks * (heads + 1) + 2
        assert drawn(show_attention(shipped, frames[:3])) == 3 * (blocks + 2)
        assert drawn(show_patch_pca(shipped, frames)) == 12
        small = [np.asarray(Image.fromarray(f).resize((8 * shipped.grid,) * 2)) for f in frames[:2]]
        assert drawn(show_match(shipped, *small, (1, 2), (10.0, 12.0))) == 3


# ---------------------------------------------------------------------------- bad arguments


def one_sentence(error) -> str:
    text = str(error.value)
    assert "\n" not in text and 20 < len(text) < 300, text
    return text


def test_bad_arguments_get_one_sentence(model, frames):
    maps = attention_maps(model, frames[:1])
    clips = [make_clip(0, "val", 4, 64)]
    wrong = [
        (lambda: attention_maps(model, frames[:, :32, :32]), "64"),
        (lambda: attention_maps(model, frames.astype(np.float32)), "float32"),
        (lambda: attention_maps(model, frames.astype(np.int64)), "int64"),
        (lambda: patch_features(model, frames[..., :1]), "uint8"),
        (lambda: patch_features(model, frames, block=3), "block 3"),
        (lambda: patch_features(model, frames, block=-4), "block -4"),
        (lambda: attention_from(maps, "eye"), "eye"),
        (lambda: attention_from(maps, 64), "64"),
        (lambda: attention_from(maps, -1), "-1"),
        (lambda: attention_from(maps, (8, 0)), "8 x 8"),
        (lambda: attention_from(maps, (1, 2, 3)), "8 x 8"),
        (lambda: overlay(frames[0], torch.ones(63)), "63"),
        (lambda: overlay(frames[0][:32], torch.ones(64)), "64"),
        (lambda: show_attention(model, frames[0], (0, 8)), "(0, 8)"),
        (lambda: show_match(model, frames[0], frames[1], (9, 9)), "(9, 9)"),
        (lambda: match_patch(torch.rand(4, 3), torch.rand(4, 3), 4), "4"),
        (lambda: center_features(torch.rand(1, 4, 3), "median"), "median"),
        (lambda: match_accuracy(model, clips, [4]), "4"),
        (lambda: match_accuracy(model, clips, [0]), "0"),
        (lambda: match_accuracy(model, []), "0 clips"),
        (lambda: match_accuracy(model, [*clips, make_clip(0, "val", 5, 64)], [1]), "[4, 5]"),
        (lambda: match_accuracy(model, [make_clip(0, "val", 4, 32)], [1]), "64"),
        (lambda: similarity_matrix(model, frames), "pairs"),
        (lambda: similarity_matrix(model, frames[None, :3]), "pairs"),
        (lambda: feature_maps(torch.rand(3, 8)), "4 samples"),
        (lambda: feature_maps(torch.rand(30)), "4 samples"),
    ]
    for call, told in wrong:
        with pytest.raises(ValueError) as error:
            call()
        assert told in one_sentence(error), error.value
