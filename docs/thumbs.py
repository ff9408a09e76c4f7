"""A thumbnail for each notebook, cut from the pictures stored in it: for the site's first page.

`python docs/thumbs.py` makes those that are missing or out of date, and removes those of notebooks
now gone. The moving picture of the first page, nbs/images/method.gif, is a file of its own.
"""
from __future__ import annotations

import base64
import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).resolve().parent))
from project import ROOT, THUMBS, read_notebook, settings  # noqa: E402

THUMB_BYTES = 6_000
# Which stored picture stands for a notebook (by its name; the picture's number in the file), and
# which part of it: left, top, right, bottom as shares. Without an entry: the most colourful one.
CHOSEN: dict[str, tuple[int, tuple[float, float, float, float] | None]] = {
    "figures": (3, None), "world": (1, (0.12, 0.03, 1, 0.42)),
    "video": (2, (0.05, 0, 0.55, 1)), "sampling": (0, (0, 0, 1, 0.62)),
    "views": (3, None), "files": (1, None), "formats": (1, (0, 0.1, 0.5, 1)),
    "dataset": (1, (0, 0, 0.66, 1)), "masking": (3, None), "autoencoder": (3, None),
    "distributed": (0, None), "contrast": (2, (0.1, 0.08, 1, 0.6)), "schedule": (3, None),
    "vicmae": (0, None), "weights": (0, None), "checkpoints": (0, None),
    "features": (1, None), "probes": (0, None),
    "collapse": (1, (0, 0, 0.6, 1)), "train": (1, None), "run": (0, None),
    "parallel": (0, None), "recipes": (0, None), "task": (0, (0, 0, 0.6, 1)),
    "job": (0, None), "pretrain": (3, (0, 0, 1, 0.53)), "labelled": (2, (0, 0, 0.5, 1)),
    "report": (1, None),
    "evaluate": (0, None), "transfer": (0, (0, 0, 0.5, 1)), "classifier": (0, None),
    "augment": (1, (0.1, 0, 0.7, 1)), "batches": (1, None),
    "finetune_recipes": (2, None), "finetune": (0, (0, 0, 0.66, 1)),
    "predict": (0, (0, 0, 0.4, 1)), "visualize": (2, None), "attention": (4, None),
    "show": (4, None), "memory": (0, None), "follow": (1, None),
    "launch": (0, None), "watch": (0, (0, 0.07, 1, 0.85)),
    "laptop_to_slurm": (0, None)}


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
        number, part = CHOSEN.get(path.stem.split("_", 1)[1], (-1, None))
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


if __name__ == "__main__":
    made = make_thumbs(settings().nbs, ROOT / THUMBS)
    print(f"{len(made)} thumbnails, {sum(p.stat().st_size for p in made) / 1000:.0f} KB")
