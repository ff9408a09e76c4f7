"""The pictures of the first page: the moving one (method.gif) and a thumbnail for each notebook.

`python docs/pictures.py` makes both; `--gif` or `--thumbs` only one. The moving picture shows what
the shipped model does to a shipped clip that it never saw; the thumbnails are cut from the
pictures stored in the notebooks.
"""
from __future__ import annotations

import argparse
import base64
import io
import re
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).resolve().parent))
from project import ROOT, THUMBS, read_notebook, settings  # noqa: E402

GIF = ROOT / "nbs" / "images" / "method.gif"
GIF_BYTES, THUMB_BYTES = 600_000, 6_000
INK, QUIET, GREY = "#333333", "#8a8f98", "#d9d9d9"
ONE, OTHER = "#0072B2", "#D55E00"  # the two frames
WIDTH, HEIGHT, SIDE, FINE = 640, 372, 128, 2  # pixels; everything is drawn FINE times as large
LEFT, MIDDLE, VECTOR, RIGHT = 24, 196, 352, 402  # columns
ROWS = (66, 222)  # tops of the two frames
CANDIDATES = 6
HIDDEN = {0.5: "Half of each is hidden", 0.75: "Three quarters of each are hidden"}


# ---------------------------------------------------------------- what the model does
FOUND = re.compile(r"it finds \d+ of \d+ pairs")  # in the index, kept in step with the model


class Scene(NamedTuple):
    """All that the moving picture shows, computed by the model."""

    strip: np.ndarray  # [8, S, S, 3] uint8 the clip
    which: tuple[int, int]  # the two frames of it
    painted: np.ndarray  # [2, S, S, 3] uint8, prediction where hidden
    mask: np.ndarray  # [2, grid, grid] 1 hidden
    vectors: np.ndarray  # [2, 16] of the projected, pooled vectors
    others: np.ndarray  # [CANDIDATES, S, S, 3] uint8, one of them is the second frame
    share: np.ndarray  # [CANDIDATES] probability of being the other frame
    answer: int  # which of the candidates is


def clip_frames(size: int) -> list[np.ndarray]:
    "Sixteen frames of every shipped clip, uint8 [16, S, S, 3]."
    from vicmae.checkpoints import sample_files
    from vicmae.visualize import read_media
    clips = [path for path in sample_files() if path.suffix == ".mp4"]
    return [read_media(path, size, 16) for path in clips]


def look(model, frames: np.ndarray, seed: int):
    "Painted frames, masks, pooled vectors after the head, of frames [N, S, S, 3]."
    import torch

    from vicmae.contrast import pool
    from vicmae.masking import gather_tokens, patchify
    from vicmae.views import normalize
    from vicmae.visualize import reconstruct
    out = reconstruct(model, frames, seed=seed)
    mask = out.mask.float()
    images = normalize(torch.from_numpy(frames).permute(0, 3, 1, 2))
    seen = mask.argsort(dim=1, stable=True)[:, : int((mask[0] == 0).sum())]
    with torch.no_grad():
        tokens = model.encode(gather_tokens(patchify(images, model.patch_size), seen), seen)
        pooled = pool(tokens[:, 1:], model.pool)
        near = torch.nn.functional.normalize(model.projector(pooled), dim=-1)
        head = model.target_projector or model.projector
        far = torch.nn.functional.normalize(head(pooled), dim=-1)
    return out.pasted, mask.numpy().astype(int), near.numpy(), far.numpy()


def make_scene(model, seeds: int = 4) -> Scene:
    "Of the shipped clips the pair of frames that it paints best, among those that it matches."
    clips, best, found = clip_frames(model.grid * model.patch_size), (np.inf,), None
    middle = [clip[8] for clip in clips]
    tried = matched = 0
    for i, clip in enumerate(clips):
        for a, b in ((2, 7), (4, 10), (3, 13)):
            for seed in range(seeds):
                rest = [frame for j, frame in enumerate(middle) if j != i][: CANDIDATES - 1]
                frames = np.stack([clip[a], clip[b], *rest])
                pasted, mask, near, far = look(model, frames, seed)
                scores = near[0] @ far[1:].T / model.temperature
                share = np.exp(scores - scores.max())
                share /= share.sum()
                tried, matched = tried + 1, matched + int(share.argmax() == 0)
                pair = frames[:2] / 255  # errors count more where there is little to see
                error = np.abs(pasted[:2] - pair).mean() / pair.std(axis=(1, 2)).min()
                error -= 0.5 * share[0]
                if share.argmax() == 0 and error < best[0]:
                    best = (error, i, a, b, seed)
                    found = (clip, (a, b), pasted[:2], mask[:2], near[0], far[1], frames, share)
    print(f"the other frame is found in {matched} of {tried} pairs (chance: 1 of {CANDIDATES})")
    say_how_often(matched, tried)
    if found is None:
        raise SystemExit("the model finds no second frame: no picture is made")
    clip, (a, b), pasted, mask, near, far, frames, share = found
    print("shown: clip", best[1], "frames", best[2:4], "mask", best[4],
          "probability", round(float(share[0]), 2))
    order = np.random.default_rng(1).permutation(len(share))
    steps = np.linspace(0, 15, 8).round().astype(int).tolist()
    for frame in (a, b):  # the two shown take the place of their nearest neighbours in the strip
        nearest = min(range(len(steps)), key=lambda k: abs(steps[k] - frame))
        steps[nearest] = frame
    grid = model.grid
    first = np.stack([near, far])[:, :16]
    return Scene(clip[steps], (steps.index(a), steps.index(b)),
                 (pasted * 255).round().astype(np.uint8), mask.reshape(2, grid, grid),
                 first / np.abs(first).max(), frames[1:][order], share[order],
                 int(np.flatnonzero(order == 0)[0]))


def say_how_often(matched: int, tried: int) -> None:
    "The number of pairs that the model finds, in the caption of the index."
    index = settings().nbs / "index.ipynb"
    text = index.read_text(encoding="utf-8")
    new = FOUND.sub(f"it finds {matched} of {tried} pairs", text)
    if new != text:
        index.write_text(new, encoding="utf-8")


# ---------------------------------------------------------------- drawing one moment
class Canvas:
    """A picture drawn twice as large as it is shown, so that letters are smooth."""

    def __init__(self) -> None:
        self.image = Image.new("RGB", (WIDTH * FINE, HEIGHT * FINE), "white")
        self.draw = ImageDraw.Draw(self.image)

    def text(self, x: float, y: float, words: str, size: float = 13, colour: str = INK,
             bold: bool = False, anchor: str = "ls") -> None:
        import matplotlib
        name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
        path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name
        font = ImageFont.truetype(str(path), int(size * FINE))
        self.draw.text((x * FINE, y * FINE), words, colour, font, anchor)

    def box(self, x: float, y: float, w: float, h: float, fill: str | tuple | None = None,
            outline: str | None = None, line: float = 3) -> None:
        corners = [x * FINE, y * FINE, (x + w) * FINE - 1, (y + h) * FINE - 1]
        self.draw.rectangle(corners, fill, outline, round(line * FINE) if outline else 1)

    def picture(self, x: float, y: float, side: float, pixels: np.ndarray,
                edge: str | None = None, alpha: float = 1.0) -> None:
        size = round(side * FINE)
        image = Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)
        if alpha < 1:
            image = Image.blend(Image.new("RGB", image.size, "white"), image, alpha)
        self.image.paste(image, (round(x * FINE), round(y * FINE)))
        if edge:
            self.box(x - 3, y - 3, side + 6, side + 6, outline=edge)

    def patches(self, x: float, y: float, pixels: np.ndarray, shown: np.ndarray,
                edge: str | None = None, ground: str = "#ececec", shift: float = 0) -> None:
        "The shown patches of a picture on a quiet ground."
        grid = len(shown)
        big = Image.fromarray(pixels).resize((SIDE * FINE,) * 2, Image.Resampling.BICUBIC)
        step = SIDE * FINE // grid
        if ground:
            self.box(x, y, SIDE, SIDE, ground)
        for r, c in np.argwhere(shown):
            part = big.crop((c * step, r * step, (c + 1) * step, (r + 1) * step))
            corner = round((x + shift) * FINE) + c * step, round(y * FINE) + r * step
            self.image.paste(part, corner)
        if edge:
            self.box(x - 3, y - 3, SIDE + 6, SIDE + 6, outline=edge)

    def finished(self) -> Image.Image:
        return self.image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)


def ease(t: float) -> float:
    "From 0 to 1, slow at both ends."
    return t * t * (3 - 2 * t)


def mix(a: float, b: float, t: float) -> float:
    "The way from a to b."
    return a + (b - a) * t


def tint(values: np.ndarray) -> np.ndarray:
    "From blue through white to orange, for values from -1 to 1: uint8 [..., 3]."
    values = np.asarray(values, dtype=float)[..., None]
    target = np.where(values > 0, ImageColor.getrgb(OTHER), ImageColor.getrgb(ONE))
    return (255 + (target - 255) * np.abs(values).clip(0, 1) ** 0.7).round().astype(np.uint8)


def vector(canvas: Canvas, x: float, y: float, values: np.ndarray, alpha: float = 1) -> None:
    "A vector as a column of coloured cells."
    height = SIDE / len(values)
    for i, colour in enumerate(tint(values)):
        pale = (255 - alpha * (255.0 - colour)).astype(int)
        canvas.box(x, y + i * height, 18, height, tuple(pale.tolist()))
    shade = int(255 - 117 * alpha)
    canvas.box(x, y, 18, SIDE, outline=f"#{shade:02x}{shade:02x}{shade:02x}", line=1)


class Film:
    """The moments of the moving picture, each with the time it is shown."""

    def __init__(self, scene: Scene) -> None:
        self.scene, self.frames, self.times = scene, [], []
        rng = np.random.default_rng(3)
        cells = scene.mask[0].size
        self.order = [rng.permutation(cells).reshape(scene.mask[0].shape) for _ in range(2)]
        self.cells = cells

    def add(self, canvas: Canvas, seconds: float) -> None:
        self.frames.append(canvas.finished())
        self.times.append(int(seconds * 1000))

    def moment(self, caption: str, hidden: float = 0, seen: float = 0, painted: float = 0,
               vectors: float = 0, others: float = 0, bars: float = 0, answer: bool = False,
               note: str = "") -> Canvas:
        "One moment after the two frames have taken their places; the numbers run from 0 to 1."
        canvas, scene = Canvas(), self.scene
        canvas.text(LEFT - 3, 36, caption, 18, bold=True)
        if note:
            canvas.text(WIDTH - 20, 36, note, 12, QUIET, anchor="rs")
        for k, edge in enumerate((ONE, OTHER)):
            y, mask = ROWS[k], scene.mask[k].astype(bool)
            frame = scene.strip[scene.which[k]]
            gone = mask & (self.rank(k, mask) < hidden)
            canvas.patches(LEFT, y, frame, ~gone, edge)
            if seen:
                canvas.patches(MIDDLE, y, frame, np.zeros_like(mask), None)
                if seen >= 1:
                    canvas.patches(MIDDLE, y, frame, ~mask, None)
                else:
                    canvas.patches(LEFT, y, frame, ~mask, None, "", (MIDDLE - LEFT) * ease(seen))
            if painted:
                shown = mask & (self.rank(k, mask) < painted)
                canvas.patches(MIDDLE, y, scene.painted[k], shown, None, "")
            if vectors:
                vector(canvas, VECTOR - 12 * (1 - ease(vectors)), y, scene.vectors[k], vectors)
        if others:
            self.candidates(canvas, others, bars, answer)
        return canvas

    def rank(self, k: int, mask: np.ndarray) -> np.ndarray:
        "For each hidden patch its turn, from 0 to below 1."
        turn = np.where(mask, self.order[k], self.cells)
        return turn.ravel().argsort().argsort().reshape(mask.shape) / max(1, mask.sum())

    def candidates(self, canvas: Canvas, alpha: float, bars: float, answer: bool) -> None:
        "Six frames, and how likely each is the other one."
        scene, step, side = self.scene, 48.5, 40
        for i, (frame, share) in enumerate(zip(scene.others, scene.share)):
            y, chosen = ROWS[0] - 2 + i * step, answer and i == scene.answer
            canvas.picture(RIGHT, y, side, frame, OTHER if chosen else None, alpha)
            if bars:
                width = 118 * float(share) * ease(bars)
                canvas.box(RIGHT + 52, y + 12, 118, 16, "#f0f0f0")
                canvas.box(RIGHT + 52, y + 12, max(1.0, width), 16, OTHER if chosen else "#a8adb5")
                canvas.text(RIGHT + 178, y + 25, f"{100 * float(share) * bars:.0f} %", 12,
                            INK if chosen else QUIET)

    def opening(self) -> None:
        "The clip as a strip; two of its frames grow and go to their places."
        scene, small = self.scene, 68
        places = [(LEFT + k * (small + 7), 140) for k in range(len(scene.strip))]
        for caption, edges, seconds in (("A clip", False, 1.2), ("Two of its frames", True, 1.0)):
            canvas = Canvas()
            canvas.text(LEFT - 3, 36, caption, 18, bold=True)
            for k, (x, y) in enumerate(places):
                mark = dict(zip(scene.which, (ONE, OTHER))).get(k) if edges else None
                canvas.picture(x, y, small, scene.strip[k], mark)
            self.add(canvas, seconds)
        for t in np.linspace(0, 1, 9)[1:]:
            canvas, s = Canvas(), ease(t)
            canvas.text(LEFT - 3, 36, "Two of its frames", 18, bold=True)
            for k, (x, y) in enumerate(places):
                if k not in scene.which and t < 0.7:
                    canvas.picture(x, y, small, scene.strip[k], None, 1 - t / 0.7)
            for j, k in enumerate(scene.which):
                x, y = places[k]
                canvas.picture(mix(x, LEFT, s), mix(y, ROWS[j], s), mix(small, SIDE, s),
                               scene.strip[k], (ONE, OTHER)[j])
            self.add(canvas, 0.06)
        self.times[-1] = 700

    def play(self) -> None:
        "From the first moment to the last."
        self.opening()
        steps = lambda n: np.linspace(0, 1, n + 1)[1:]
        share = float(self.scene.mask.mean())
        now: dict = {"caption": HIDDEN.get(share, f"{100 * share:.0f} % of each are hidden")}
        for t in steps(12):
            self.add(self.moment(**now, hidden=t), 0.08)
        self.times[-1] = 1100
        now = {"caption": "The encoder sees only the rest", "hidden": 1}
        for t in steps(8):
            self.add(self.moment(**now, seen=t), 0.06)
        self.times[-1] = 900
        now |= {"caption": "A decoder paints what it never saw", "seen": 1}
        for t in steps(12):
            self.add(self.moment(**now, painted=t), 0.09)
        self.times[-1] = 1600
        now |= {"caption": "Each frame becomes one vector", "painted": 1}
        for t in steps(3):
            self.add(self.moment(**now, vectors=t), 0.08)
        self.times[-1] = 1100
        now |= {"caption": "Which of these six is the other frame?", "vectors": 1}
        for t in steps(4):
            self.add(self.moment(**now, others=t), 0.07)
        self.times[-1] = 1200
        now |= {"others": 1}
        for t in steps(8):
            self.add(self.moment(**now, bars=t), 0.07)
        self.times[-1] = 500
        now |= {"caption": "The two vectors find each other", "bars": 1}
        self.add(self.moment(**now, answer=True), 3.0)


def write_gif(film: Film, path: Path) -> int:
    "Write the film with as many colours as fit into the size; returns its bytes."
    keys = [film.frames[i] for i in (0, len(film.frames) // 2, -1)]
    sheet = Image.new("RGB", (WIDTH, HEIGHT * len(keys) + 100))
    for i, frame in enumerate(keys):
        sheet.paste(frame, (0, i * HEIGHT))
    ramp = np.linspace(-1, 1, WIDTH)  # the colours of the vectors need places of their own
    sheet.paste(Image.fromarray(np.tile(tint(ramp), (100, 1, 1))), (0, HEIGHT * len(keys)))
    for colours in (160, 128, 96, 64, 48):
        palette = sheet.quantize(colours, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        table = np.array(palette.getpalette()[: 3 * colours]).reshape(-1, 3)
        for colour in ("white", "#ececec", INK, ONE, OTHER):  # what was drawn keeps its colour
            wanted = np.array(ImageColor.getrgb(colour))
            distance = np.abs(table - wanted).sum(1)
            table[(distance < 16) | (distance == distance.min())] = wanted
        palette.putpalette(table.ravel().tolist())
        flat = [f.quantize(palette=palette, dither=Image.Dither.NONE) for f in film.frames]
        data = io.BytesIO()
        flat[0].save(data, "GIF", save_all=True, append_images=flat[1:], duration=film.times,
                     loop=0, optimize=False, disposal=1)
        if len(data.getvalue()) <= GIF_BYTES:
            break
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.getvalue())
    print(f"{path.name}: {len(film.frames)} moments, {sum(film.times) / 1000:.0f} s, "
          f"{colours} colours, {path.stat().st_size / 1000:.0f} KB")
    return path.stat().st_size


# ---------------------------------------------------------------- thumbnails
# Which stored picture stands for a notebook (its number in the file), and which part of it:
# left, top, right, bottom as shares. Without an entry: the most colourful one, as it is.
CHOSEN: dict[str, tuple[int, tuple[float, float, float, float] | None]] = {
    "00_figures": (3, None), "01_world": (1, (0.12, 0.03, 1, 0.42)),
    "02_video": (2, (0.05, 0, 0.55, 1)), "03_sampling": (0, (0, 0, 1, 0.62)),
    "04_views": (3, None), "04a_files": (1, None), "04b_formats": (1, (0, 0.1, 0.5, 1)),
    "05_dataset": (1, (0, 0, 0.66, 1)), "06_masking": (3, None), "07_autoencoder": (3, None),
    "08_distributed": (0, None), "09_contrast": (2, (0.1, 0.08, 1, 0.6)), "10_schedule": (3, None),
    "11_vicmae": (0, None), "11a_weights": (0, None), "11b_foreign": (0, None),
    "11c_runfolder": (0, None), "12_checkpoints": (0, None),
    "13_features": (1, None), "13a_probes": (0, None),
    "14_collapse": (1, (0, 0, 0.6, 1)), "15_train": (1, None), "15a_log": (0, None),
    "15b_parallel": (0, None), "16_recipes": (0, None), "16a_task": (0, (0, 0, 0.6, 1)),
    "16b_trainer": (0, None), "16c_memory": (0, None),
    "17_pretrain": (3, (0, 0, 1, 0.53)), "17a_labelled": (2, (0, 0, 0.5, 1)),
    "17b_report": (1, None),
    "18_evaluate": (0, None), "18a_transfer": (0, (0, 0, 0.5, 1)), "19_classifier": (0, None),
    "19a_augment": (1, (0.1, 0, 0.7, 1)), "19b_batches": (1, None),
    "19c_finetune_recipes": (2, None), "19d_finetune": (0, (0, 0, 0.66, 1)),
    "19e_predict": (0, (0, 0, 0.4, 1)), "21_visualize": (2, None), "21a_attention": (4, None),
    "21c_show": (4, None), "23a_follow": (1, None),
    "24_launch": (0, None), "24a_watch": (0, (0, 0.07, 1, 0.85)),
    "30_laptop_to_slurm": (0, None)}


def stored_pictures(path: Path) -> list[Image.Image]:
    "The pictures stored in a notebook, in order."
    found = []
    for cell in read_notebook(path)["cells"]:
        for output in cell.get("outputs", []):
            for kind, data in output.get("data", {}).items():
                if kind in ("image/png", "image/jpeg"):
                    raw = base64.b64decode("".join(data))
                    found.append(Image.open(io.BytesIO(raw)).convert("RGB"))
    return found


def colourfulness(image: Image.Image) -> float:
    "How much colour a picture has: the mean distance of its channels."
    pixels = np.asarray(image.resize((64, 64))).astype(float)
    return float(np.ptp(pixels, axis=-1).mean())


def thumbnail(image: Image.Image, part: tuple[float, float, float, float] | None) -> Image.Image:
    "A picture, or a part of it, on a white card of 16 to 9."
    width, height = 224, 126
    if part:
        image = image.crop(tuple(round(v * s) for v, s in zip(part, image.size * 2)))
    scale = min(width / image.width, height / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    card = Image.new("RGB", (width, height), "white")
    card.paste(image.resize(size, Image.Resampling.LANCZOS),
               ((width - size[0]) // 2, (height - size[1]) // 2))
    return card


def words_as_picture(path: Path) -> Image.Image:
    "The first printed lines of a notebook without pictures, as in a terminal."
    import matplotlib
    outputs = [o for c in read_notebook(path)["cells"] for o in c.get("outputs", [])]
    text = next(("".join(o["text"]) for o in outputs if "text" in o), path.stem)
    font = ImageFont.truetype(
        str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSansMono.ttf"), 22)
    image = Image.new("RGB", (672, 378), "#20242b")
    lines = "\n".join(line[:46] for line in text.splitlines()[:13])
    ImageDraw.Draw(image).multiline_text((24, 18), lines, "#e8e8e8", font, spacing=5)
    return image


def make_thumbs(nbs: Path, out: Path) -> list[Path]:
    "One JPEG of at most 6 KB for every numbered notebook; those of notebooks now gone are removed."
    out.mkdir(parents=True, exist_ok=True)
    made = []
    for path in sorted(nbs.glob("[0-9]*.ipynb")):
        pictures = stored_pictures(path)
        number, part = CHOSEN.get(path.stem, (-1, None))
        if not pictures:
            image, part = words_as_picture(path), None
        elif 0 <= number < len(pictures):
            image = pictures[number]
        else:
            image, part = max(pictures, key=colourfulness), None
        target = out / f"{path.stem}.jpg"
        for quality in range(88, 20, -4):
            data = io.BytesIO()
            thumbnail(image, part).save(data, "JPEG", quality=quality, optimize=True)
            if len(data.getvalue()) <= THUMB_BYTES:
                break
        if not target.exists() or target.read_bytes() != data.getvalue():
            target.write_bytes(data.getvalue())
        made.append(target)
    for old in set(out.glob("*.jpg")) - set(made):
        old.unlink()
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gif", action="store_true", help="only the moving picture")
    parser.add_argument("--thumbs", action="store_true", help="only the thumbnails")
    args = parser.parse_args()
    if args.gif or not args.thumbs:
        from vicmae.checkpoints import load_model
        film = Film(make_scene(load_model("tiny64").eval()))
        film.play()
        write_gif(film, GIF)
    if args.thumbs or not args.gif:
        made = make_thumbs(settings().nbs, ROOT / THUMBS)
        print(f"{len(made)} thumbnails, {sum(p.stat().st_size for p in made) / 1000:.0f} KB")


if __name__ == "__main__":
    main()
