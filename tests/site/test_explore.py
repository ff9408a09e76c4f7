"""The widgets: in Python alone, and in a real JupyterLab with a headless Chromium before it."""

import base64
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.browser import FLAGS, WATCH, find_browser, jupyterlab, trust, write_notebook
from PIL import Image
from support.waiting import wait_for

from vicmae.look.canvas import Canvas, keep_pictures
from vicmae.look.controls import Explorer, FileChooser, slider
from vicmae.look.explore import (
    explore_attention,
    explore_files,
    explore_masking,
    explore_sampling,
    explore_schedule,
)
from support import ROOT

VIEW = "application/vnd.jupyter.widget-view+json"
PATIENCE = 300_000  # milliseconds for a page or a kernel to come
SLOW = 60.0  # seconds; a busy machine may take long, a broken widget takes for ever


def pictures(explorer: Explorer) -> dict[str, bytes]:
    return {name: panel.picture for name, panel in explorer.panels.items()}


def picture_file(path: Path, seed: int = 0) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (80, 100, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


# ---------------------------------------------------------------- without a browser
@pytest.fixture(scope="module")
def masking() -> Explorer:
    return explore_masking()


@pytest.mark.parametrize("name, value, change", [
    ("mask ratio", 0.3, ["prediction", "pasted"]), ("seed", 7, ["prediction", "pasted"]),
    ("frame", 9, ["paint", "original", "prediction"]), ("file", "ring.jpg", ["original"])])
def test_masking_follows_its_controls(masking, name, value, change) -> None:
    before = pictures(masking)
    masking.controls[name].value = value
    assert masking.error is None and "patches hidden" in masking.note
    assert all(masking.panels[panel].picture != before[panel] for panel in change)


def test_painting_decides_what_is_hidden(masking) -> None:
    mask = [0] * 64
    mask[10:20] = [1] * 10
    masking.panels["paint"].mask = mask
    assert masking.note.startswith("10 of 64 patches hidden"), masking.note
    original = np.asarray(Image.open(io.BytesIO(masking.panels["original"].picture)))
    pasted = np.asarray(Image.open(io.BytesIO(masking.panels["pasted"].picture)))
    differs = (original != pasted).any(-1).reshape(8, 8, 8, 8).any((1, 3)).reshape(-1)
    assert differs.tolist() == [bool(m) for m in mask]
    for everything in (0, 1):  # nothing hidden, everything hidden: an answer, no error
        masking.panels["paint"].mask = [everything] * 64
        assert masking.error is None, masking.note


def test_the_brush_hides_or_shows(masking) -> None:
    masking.controls["brush"].value = "show"
    assert masking.panels["paint"].tool == 0
    masking.controls["brush"].value = "hide"
    assert masking.panels["paint"].tool == 1


def test_a_model_of_normalised_patches_is_told_whose_statistics() -> None:
    from vicmae.backbone.checkpoints import load_model

    explorer = explore_masking(load_model("tiny"))
    seen = {}
    for statistics in ("visible", "raw", "true"):
        explorer.controls["statistics"].value = statistics
        seen[explorer.panels["prediction"].picture] = explorer.panels["prediction"].caption
    assert len(seen) == 3 and "USES THE ANSWER" in list(seen.values())[-1]


def test_attention_follows_clicks_and_sliders() -> None:
    explorer = explore_attention()
    before = pictures(explorer)
    explorer.panels["frame"].picked = 9
    assert explorer.panels["frame"].marks[0]["cell"] == 9 and "(1, 1)" in explorer.note
    for name, value in (("block", 1), ("head", 2), ("gap", 3), ("attention", "rollout")):
        explorer.controls[name].value = value
        assert explorer.error is None, explorer.note
        now = pictures(explorer)
        assert now["attention"] != before["attention"] or name == "gap"
        assert now["match"] != before["match"] or name != "gap"
        before = now
    explorer.controls["file"].value = "ring.jpg"  # a picture has no other frame
    assert explorer.controls["gap"].disabled and "(1, 1) of frame 0" in explorer.note


def test_sampling_follows_the_rule() -> None:
    explorer = explore_sampling()
    for name, value in (("rule", "same"), ("rule", "continuous"), ("gap", 9), ("rule", "distant"),
                        ("window", 6), ("seed", 3), ("file", "star.mp4")):
        before = explorer.panels["time"].picture
        explorer.controls[name].value = value
        assert explorer.error is None and " s" in explorer.note
        assert explorer.panels["time"].picture != before or name == "file"
    explorer.controls["rule"].value = "same"
    assert explorer.panels["first"].picture == explorer.panels["second"].picture


def test_schedule_by_slider_and_by_hand() -> None:
    explorer = explore_schedule("tiny")
    for name, value in (("kind", "linear"), ("λ", 0.1), ("start", 0.3), ("warm-up", 0.2)):
        before = pictures(explorer)
        explorer.controls[name].value = value
        changed = [k for k, v in pictures(explorer).items() if v != before[k]]
        assert changed == {"λ": ["losses"], "warm-up": ["plan"]}.get(name, ["plan", "losses"])
    place = lambda share: 0.13 + 0.85 * (100 * share + 2) / 104
    explorer.panels["plan"].pointer = [place(0.71), 0.2, place(0.8), 0.2]  # the end, to the right
    assert explorer.controls["length"].value == pytest.approx(0.5, abs=0.02)
    explorer.panels["plan"].pointer = [place(0.28), 0.8, place(0.1), 0.8]  # the start, to the left
    assert explorer.controls["start"].value == pytest.approx(0.1, abs=0.02)
    assert "--lam 0.1 --lam-schedule linear --lam-start 0.1" in explorer.note


def upload(chooser: FileChooser, path: Path, name: str = "", piece: int = 10_000) -> None:
    "What the page sends when a reader chooses a file."
    content = path.read_bytes()
    for start in range(0, len(content), piece):
        place = {"name": name or path.name, "size": len(content), "start": start}
        chooser.receive(None, place, [memoryview(content[start : start + piece])])


def test_a_chosen_file_arrives_whole_and_stays_in_its_folder(tmp_path) -> None:
    chooser, path = FileChooser(), picture_file(tmp_path / "mine.png")
    for name in ("mine.png", "../../mine.png", "C:\\x\\mine.png", "mine.png"):
        before = chooser.value
        upload(chooser, path, name)
        assert chooser.value != before and Path(chooser.value).name == "mine.png"
        assert Path(chooser.value).is_relative_to(chooser.folder.name)
        assert Path(chooser.value).read_bytes() == path.read_bytes()
    upload(chooser, path, "..")
    assert Path(chooser.value).name == "file"


def test_own_files_are_read_and_bad_ones_answered(tmp_path) -> None:
    explorer = explore_files()
    masking = explorer.inside[0]
    before = pictures(masking)
    send = explorer.controls["upload"]
    upload(send, picture_file(tmp_path / "mine.png"))
    assert explorer.error is None and masking.controls["file"].value == "mine.png"
    assert masking.panels["original"].picture != before["original"]
    (tmp_path / "bad.mp4").write_text("no film")
    (tmp_path / "notes.txt").write_text("no picture")
    for name in ("bad.mp4", "notes.txt"):
        upload(send, tmp_path / name)
        assert name in explorer.note and "Traceback" not in explorer.status.value
        assert str(tmp_path) not in explorer.note and "vicmae_" not in explorer.note
        assert masking.controls["file"].value == "mine.png"
    explorer.controls["path"].value = str(tmp_path / "nowhere.png")
    assert "does not exist" in explorer.note
    explorer.controls["path"].value = str(picture_file(tmp_path / "other.png", 1))
    assert explorer.error is None and masking.controls["file"].value == "other.png"
    explorer.controls["show"].value = "attention"
    assert masking.layout.display == "none" and explorer.poster() == explorer.inside[1].poster()


def test_no_error_gets_out_of_a_widget() -> None:
    knob = slider("divisor", 0, 3, 1)
    panel = Canvas(np.zeros((8, 8)))
    explorer = Explorer({"divisor": knob}, {"p": panel}, lambda changed: f"{6 // knob.value}")
    assert explorer.note.startswith("6 · ")
    knob.value = 0
    assert explorer.note.startswith("This did not work (ZeroDivisionError")
    knob.value = 3
    assert explorer.note.startswith("2 · ") and explorer.error is None
    for explorer in (explore_masking(media="nowhere.mp4"), explore_sampling("nowhere.mp4")):
        assert "nowhere.mp4 does not exist" in explorer.note
        assert explorer._repr_mimebundle_()["image/png"]


def test_every_widget_has_a_picture_for_readers(masking) -> None:
    for explorer in (masking, explore_sampling(), explore_schedule("tiny")):
        bundle = explorer._repr_mimebundle_()
        image = Image.open(io.BytesIO(base64.b64decode(bundle["image/png"])))
        assert VIEW in bundle and image.width <= 800 and len(bundle["image/png"]) < 60_000


def test_stored_notebooks_keep_the_picture_alone(tmp_path, masking) -> None:
    stored = {"output_type": "execute_result", "execution_count": 1, "metadata": {},
              "data": masking._repr_mimebundle_()}
    other = {"output_type": "display_data", "metadata": {}, "data": {VIEW: {}, "text/plain": "x"}}
    write_notebook(tmp_path / "a.ipynb", ["explore_masking()", "x"], {0: [stored], 1: [other]})
    assert keep_pictures(tmp_path / "a.ipynb") == 1 and keep_pictures(tmp_path / "a.ipynb") == 0
    first, second = json.loads((tmp_path / "a.ipynb").read_text())["cells"]
    assert set(first["outputs"][0]["data"]) == {"image/png", "text/plain"}
    assert VIEW in second["outputs"][0]["data"]  # without a picture, nothing is taken away
    for name in ("125_canvas", "126_controls", "127_explore"):
        notebook = json.loads((ROOT / "nbs" / f"{name}.ipynb").read_text(encoding="utf-8"))
        outputs = [out for cell in notebook["cells"] for out in cell.get("outputs", [])]
        assert not [out for out in outputs if VIEW in out.get("data", {})], f"{name}: keep_pictures"
        assert "widgets" not in notebook["metadata"], f"{name}: keep_pictures"


def test_colab_is_asked_to_show_widgets() -> None:
    code = """
import sys, types
names = ("google", "google.colab", "google.colab.output")
for name in names: sys.modules[name] = types.ModuleType(name)
asked, output = [], sys.modules["google.colab.output"]
output.enable_custom_widget_manager = lambda: asked.append(1)
sys.modules["google.colab"].output = output
from vicmae.look.canvas import Canvas
Canvas(); Canvas()
assert asked == [1], asked
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


# ---------------------------------------------------------------- in JupyterLab
CELLS = [
    "import time\nimport numpy as np\nfrom vicmae.look.canvas import Canvas\n"
    "from vicmae.look.controls import *\nfrom vicmae.look.explore import *",
    "masking = explore_masking()\nmasking",
    "explore_sampling()",
    "explore_attention()",
    "explore_schedule('tiny')",
    "explore_files()",
    "calls, knob = [], slider('slow', 0, 100, 0)\n"
    "def update(changed):\n    calls.append(knob.value)\n    time.sleep(0.4)\n"
    "    return f'{len(calls)} calls, now {knob.value}'\n"
    "Explorer({'slow': knob}, {'p': Canvas(np.zeros((8, 8)))}, update)",
]


class Page:
    "A notebook in JupyterLab: cells by number, their widgets by name."

    def __init__(self, page, shots: Path):
        self.page, self.shots, self.times, self.said = page, shots, {}, []

    def cell(self, i: int):
        cell = self.page.locator(".jp-Notebook .jp-Cell").nth(i)
        cell.scroll_into_view_if_needed()
        return cell

    def canvas(self, i: int, k: int):
        return self.cell(i).locator(".vicmae-canvas canvas").nth(k)

    def knob(self, i: int, name: str):
        return self.cell(i).get_by_role("slider", name=name, exact=True)

    def status(self, i: int) -> str:
        return self.cell(i).locator("[role=status]").first.inner_text()

    def timed(self, what: str, canvas, act) -> float:
        "Do something; seconds from its last input event to the changed picture."
        canvas.evaluate("(canvas) => window.await_change(canvas)")
        act()
        milliseconds = self.page.evaluate("() => window.changed")
        self.times.setdefault(what, []).append(milliseconds / 1000)
        return milliseconds / 1000

    def shoot(self, name: str) -> None:
        self.page.wait_for_timeout(300)
        for i, what in enumerate(("masking", "sampling", "attention", "schedule", "files"), 1):
            self.cell(i).screenshot(path=self.shots / f"{name}_{what}.png")
        self.cell(1)
        self.page.wait_for_timeout(500)
        self.page.screenshot(path=self.shots / f"{name}_page.png")

    def open(self, lab, name: str) -> None:
        self.page.goto(f"{lab.url}/lab/tree/{name}?token={lab.token}")
        self.page.wait_for_function(
            "() => { const now = window.jupyterapp?.shell.currentWidget?.sessionContext; return "
            "now?.isReady && now.session?.kernel?.connectionStatus === 'connected' && "
            "now.session.kernel.status === 'idle'; }")

    def run_all(self, num_canvases: int) -> None:
        self.page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")
        try:
            self.page.wait_for_function("(n) => document.querySelectorAll('.vicmae-canvas canvas')"
                                        ".length >= n", arg=num_canvases, timeout=PATIENCE)
            self.page.wait_for_function("() => window.jupyterapp.shell.currentWidget"
                                        ".sessionContext.session.kernel.status === 'idle'")
        except Exception as error:  # of playwright: out of patience
            self.page.screenshot(path=self.shots / "not_shown.png")
            raise AssertionError(self.page.locator(".jp-Notebook").inner_text()) from error

    def no_traceback(self) -> None:
        text = self.page.locator(".jp-Notebook").inner_text()
        assert "Traceback" not in text and "Error displaying widget" not in text
        assert not self.page.locator(".jp-OutputArea [data-mime-type*='stderr']").count(), text


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "A JupyterLab whose notebooks are `widgets`, `live` and `stored`."
    pytest.importorskip("playwright", reason="playwright is not installed")
    pytest.importorskip("jupyterlab", reason="jupyterlab is not installed")
    if find_browser() is None:
        pytest.skip("no Chromium on this system: apt-get install chromium")
    folder, home = tmp_path_factory.mktemp("lab"), tmp_path_factory.mktemp("home")
    write_notebook(folder / "widgets.ipynb", CELLS)
    data = explore_masking()._repr_mimebundle_()
    output = {"output_type": "execute_result", "execution_count": 1, "metadata": {}, "data": data}
    for name in ("live", "stored"):
        write_notebook(folder / f"{name}.ipynb", ["explore_masking()"], {0: [output]})
    keep_pictures(folder / "stored.ipynb")
    for name in ("live", "stored"):
        trust(folder / f"{name}.ipynb", home)
    with jupyterlab(folder, home) as running:
        yield running


@pytest.fixture(scope="module")
def browser(lab):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=find_browser(), args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def page(request, lab, browser, tmp_path_factory):
    "The notebook `widgets`, every cell run."
    shots = Path(os.environ.get("VICMAE_SCREENSHOTS") or tmp_path_factory.mktemp("shots"))
    shots.mkdir(parents=True, exist_ok=True)
    view = browser.new_page(viewport={"width": 1280, "height": 1000})
    view.set_default_timeout(PATIENCE)
    view.add_init_script(WATCH)
    opened = Page(view, shots)
    opened.open(lab, "widgets.ipynb")
    opened.run_all(4 + 3 + 4 + 2 + 8 + 1)
    yield opened
    lines = [f"{k}: {', '.join(f'{s:.2f}' for s in v)} s" for k, v in opened.times.items()]
    report = "\n".join(["from input event to changed picture", *lines, *opened.said])
    (shots / "times.txt").write_text(report + "\n")
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("\n" + report, file=sys.stderr)
    view.close()


def test_every_widget_shows(page) -> None:
    page.no_traceback()
    for i in range(1, 6):
        assert " s" in page.status(i), page.status(i)
    page.shoot("1280")
    fits = "e => e.scrollWidth <= e.clientWidth + 1"
    for output in page.page.locator(".jp-OutputArea-output").all():
        assert output.evaluate(fits), "needs horizontal scrolling at 1280 pixels"


@pytest.mark.clocks
def test_a_slider_moves_the_picture(page) -> None:
    said = page.status(1)
    seed = page.knob(1, "seed")
    for _ in range(3):
        seconds = page.timed("slider, masking", page.canvas(1, 1), lambda: seed.press("ArrowRight"))
        assert seconds < SLOW
    knob = page.knob(1, "mask ratio")
    box, before = knob.bounding_box(), page.canvas(1, 2).evaluate("e => window.pixels(e)")
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.page.mouse.move(x, y)
    page.page.mouse.down()
    for step in range(10):
        page.page.mouse.move(x - 6 * step, y)
    page.page.mouse.up()
    wait_for("change of the pasted picture",
             lambda: page.canvas(1, 2).evaluate("e => window.pixels(e)") != before
             and page.status(1) != said)
    assert "patches hidden" in page.status(1) and page.status(1) != said
    for i, k, name in ((2, 0, "seed"), (3, 1, "block"), (4, 0, "start of the ramp")):
        knob = page.knob(i, name)
        key = "ArrowLeft" if name == "block" else "ArrowRight"
        for _ in range(2):
            seconds = page.timed(f"slider {name}", page.canvas(i, k), lambda: knob.press(key))
            assert seconds < SLOW


@pytest.mark.clocks
def test_painting_a_mask_is_followed(page) -> None:
    canvas, pasted = page.canvas(1, 0), page.canvas(1, 2)
    page.knob(1, "mask ratio").press("Home")  # nothing hidden
    page.page.wait_for_function("() => document.body.innerText.includes('0 of 64 patches hidden')")
    box = canvas.bounding_box()
    at = lambda row, col: (box["x"] + box["width"] * (col + 0.5) / 8,
                           box["y"] + box["height"] * (row + 0.5) / 8)
    page.page.mouse.move(*at(3, 2))
    seconds = page.timed("painting", pasted, page.page.mouse.down)
    assert seconds < SLOW
    page.page.mouse.move(*at(3, 6))  # one leap: the patches between are painted too
    page.page.mouse.up()
    page.page.wait_for_function("() => document.body.innerText.includes('5 of 64 patches hidden')")
    page.cell(1).get_by_role("button", name="show").click()
    page.page.wait_for_function("() => document.body.innerText.includes('now shows patches')")
    page.timed("erasing", pasted, lambda: page.page.mouse.click(*at(3, 4)))
    page.page.wait_for_function("() => document.body.innerText.includes('4 of 64 patches hidden')")
    canvas.press("ArrowDown")  # by keyboard: from the last patch one row down
    page.timed("painting by keyboard", pasted, lambda: canvas.press("Space"))
    page.page.wait_for_function("() => document.body.innerText.includes('5 of 64 patches hidden')")
    page.no_traceback()


@pytest.mark.clocks
def test_a_click_on_a_patch_is_answered(page) -> None:
    canvas, attention = page.canvas(3, 0), page.canvas(3, 1)
    box = canvas.bounding_box()
    for row, col in ((1, 1), (5, 2), (2, 6)):
        place = {"x": box["width"] * (col + 0.5) / 8, "y": box["height"] * (row + 0.5) / 8}
        assert page.timed("click", attention, lambda: canvas.click(position=place)) < SLOW
        page.page.wait_for_function(
            f"() => document.body.innerText.includes('patch ({row}, {col}) of frame 0')")
    page.timed("arrow key", attention, lambda: canvas.press("ArrowLeft"))
    page.page.wait_for_function("() => document.body.innerText.includes('patch (2, 5) of frame 0')")


@pytest.mark.clocks
def test_dots_of_the_schedule_are_dragged(page) -> None:
    plan = page.canvas(4, 0)
    before, box = page.status(4), plan.bounding_box()
    place = lambda share: box["x"] + box["width"] * (0.13 + 0.85 * (100 * share + 2) / 104)
    page.page.mouse.move(place(0.52), box["y"] + 40)
    page.page.mouse.down()
    page.timed("dragging a dot", plan, lambda: page.page.mouse.move(place(0.8), box["y"] + 40))
    page.page.mouse.up()
    page.page.wait_for_function(
        "said => !document.body.innerText.includes(said)", arg=before.split(" · ")[0])
    end = lambda: sum(float(re.search(rf"--lam-{name} ([\d.]+)", page.status(4))[1])
                      for name in ("start", "length"))
    wait_for("ramp that ends where the dot was left", lambda: abs(end() - 0.8) < 0.03)


def test_files_are_chosen_and_bad_ones_answered(page, tmp_path) -> None:
    picture_file(tmp_path / "mine.png")
    (tmp_path / "bad.mp4").write_bytes(b"\0" * 5000)
    chooser = page.cell(5).get_by_label("choose a file")
    choose = lambda name: chooser.set_input_files(tmp_path / name)
    page.timed("upload", page.canvas(5, 3), lambda: choose("mine.png"))
    page.page.wait_for_function("() => document.body.innerText.includes('mine.png: 1 frame')")
    choose("bad.mp4")
    page.page.wait_for_function("() => document.body.innerText.includes('bad.mp4 holds zeros')")
    with open(picture_file(tmp_path / "large.png", 1), "ab") as file:
        file.write(bytes(12_000_000))  # more than one message may hold
    page.timed("upload of 12 MB", page.canvas(5, 3), lambda: choose("large.png"))
    page.page.wait_for_function("() => document.body.innerText.includes('large.png: 1 frame')")
    choose("bad.mp4")
    page.page.wait_for_function("() => document.body.innerText.includes('bad.mp4 holds zeros')")
    page.cell(5).screenshot(path=page.shots / "1280_bad_file.png")
    page.no_traceback()


@pytest.mark.clocks
def test_the_newest_event_wins_and_waiting_is_announced(page) -> None:
    knob = page.knob(6, "slow")
    knob.focus()  # 30 events at once, however slow the machine is
    knob.evaluate("e => { for (let i = 0; i < 30; i++) e.dispatchEvent("
                  "new KeyboardEvent('keydown', {key: 'ArrowRight', bubbles: true})); }")
    page.page.wait_for_function("() => document.body.innerText.includes('computing…')")
    page.page.wait_for_function("() => document.body.innerText.includes(', now 30')")
    calls = int(page.status(6).split()[0])
    page.said.append(f"an answer that takes 0.4 s: 30 events, {calls - 1} answers")
    assert calls <= 16, "old events pile up"


def test_narrow_and_dark(page) -> None:
    page.page.set_viewport_size({"width": 800, "height": 1000})
    page.shoot("800")
    fits = "e => e.scrollWidth <= e.clientWidth + 1"
    for output in page.page.locator(".jp-OutputArea-output").all():
        assert output.evaluate(fits), "needs horizontal scrolling at 800 pixels"
    dark = "() => window.jupyterapp.commands.execute('apputils:change-theme', {theme: '%s'})"
    page.page.evaluate(dark % "JupyterLab Dark")
    page.page.set_viewport_size({"width": 1280, "height": 1000})
    page.page.wait_for_function("() => document.body.dataset.jpThemeLight === 'false'")
    page.shoot("dark")
    ink, ground = page.canvas(1, 0).evaluate(
        "e => [getComputedStyle(e.parentNode.querySelector('figcaption')).color, "
        "getComputedStyle(e.closest('.jp-Notebook')).backgroundColor]")
    assert _light(ink) > _light(ground) + 100, f"{ink} on {ground}"
    page.no_traceback()


def _light(colour: str) -> float:
    numbers = colour[colour.index("(") + 1 : -1].replace(",", " ").split()[:3]
    return sum(float(x) for x in numbers) / 3


def test_stored_notebooks_show_their_picture_without_a_kernel(lab, browser, page) -> None:
    view = browser.new_page(viewport={"width": 1000, "height": 700})
    shown = {}
    for name in ("live", "stored"):
        view.goto(f"{lab.url}/lab/workspaces/{name}/tree/{name}.ipynb?token={lab.token}")
        view.locator(".jp-OutputArea-output").first.wait_for(timeout=PATIENCE)
        awaited = {"live": "text=/widget/", "stored": ".jp-OutputArea-output img"}[name]
        view.locator(f".jp-OutputArea >> {awaited}").first.wait_for(timeout=PATIENCE)
        view.wait_for_timeout(2000)
        view.screenshot(path=page.shots / f"kernel_gone_{name}.png")
        shown[name] = view.locator(".jp-OutputArea-output").first.inner_text()
        pictures = view.locator(".jp-OutputArea-output img").count()
        assert pictures == (name == "stored"), f"{name}: {shown[name]!r}"
    view.close()
    page.said.append(f"a stored live view without its kernel shows {shown['live']!r}")
    assert "widget" in shown["live"]  # what is stored by default shows an error or a wait
    assert "widget" not in shown["stored"]

