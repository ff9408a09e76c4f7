"""The site, the first page and the Colab cells: built, run and looked through."""
import functools
import html.parser
import http.server
import json
import os
import posixpath
import re
import shutil
import subprocess
import sys
import threading
import urllib.parse
import warnings
from pathlib import Path

import pytest
from support.waiting import PATIENCE
from support import ROOT

sys.path.insert(0, str(ROOT / "docs"))
import badges  # noqa: E402
from build import code_cell, mathjax_file  # noqa: E402
from project import PARTS, THUMBS, pages, parts, read_notebook, settings, source  # noqa: E402

CFG = settings(ROOT)
PAGES = pages(CFG.nbs)
NAMES = [page.stem for page in PAGES]
CHROMIUM = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync"]


# ---------------------------------------------------------------- the site
class Html(html.parser.HTMLParser):
    """Links, loaded files, ids, pictures of outputs and the text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links, self.loads, self.ids, self.pictures, self.words = [], [], set(), 0, []
        self.skip = False
        self.feed(path.read_text(encoding="utf-8"))
        self.text = "".join(self.words)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        said = dict(attrs)
        self.skip = tag in ("script", "style")
        if "id" in said:
            self.ids.add(said["id"])
        if tag == "a" and said.get("href"):
            self.links.append(said["href"])
        if tag in ("img", "script", "iframe") and said.get("src"):
            self.loads.append(said["src"])
        if tag == "link" and said.get("rel") != "canonical":
            self.loads.append(said["href"])
        self.pictures += tag == "img" and "_images/" in (said.get("src") or "")

    def handle_data(self, data: str) -> None:
        if not self.skip:
            self.words.append(data)


def letters(text: str) -> str:
    "Letters and digits alone: quotes, dashes and line breaks are the renderer's."
    return re.sub(r"[^\w]|_", "", text)


def missing_pages(site: Path, read: dict[str, Html]) -> list[str]:
    expected = {"index.html", "search.html", "api/index.html", *(f"{name}.html" for name in NAMES),
                *(f"api/{page.module}.html" for page in PAGES if page.module)}
    found = {path.relative_to(site).as_posix() for path in site.rglob("*.html")}
    index = {urllib.parse.urljoin("index.html", link) for link in read["index.html"].links}
    return sorted(expected - found) + [f"{n}: not on the first page" for n in NAMES
                                       if f"{n}.html" not in index]


def missing_pictures(site: Path, read: dict[str, Html]) -> list[str]:
    problems = []
    for name in NAMES:
        cells = [cell for cell in read_notebook(CFG.nbs / f"{name}.ipynb")["cells"]
                 if cell["cell_type"] == "code"]
        shown = [cell for cell in map(code_cell, cells) if cell]
        stored = sum(any(kind.startswith("image/") for kind in out.get("data", {}))
                     for cell in shown for out in cell["outputs"])
        if stored != read[f"{name}.html"].pictures:
            problems.append(f"{name}: {stored} stored, {read[f'{name}.html'].pictures} shown")
    return problems


def broken_links(site: Path, read: dict[str, Html]) -> list[str]:
    problems = []
    for name, page in read.items():
        for link in page.links + page.loads:
            path, _, anchor = link.partition("#")
            path = urllib.parse.unquote(path.split("?")[0])
            if re.match(r"[a-z]+:|//", link):
                if link in page.loads and not link.startswith("data:"):
                    problems.append(f"{name} loads {link}")
                continue
            target = posixpath.normpath(posixpath.join(posixpath.dirname(name), path))
            target = name if path == "" else target
            if not (site / target).exists():
                problems.append(f"{name}: {link}")
            elif anchor and target in read and urllib.parse.unquote(anchor) not in read[target].ids:
                problems.append(f"{name}: {link} (no such place)")
    return sorted(set(problems))


def leftovers(site: Path, read: dict[str, Html]) -> list[str]:
    "What a reader should not see: directives, the Colab cell, raw roles, hidden cells."
    marks = r"#\|\s*\w+|Only on Google Colab|\{py:obj\}|:py:obj:|:param "
    return [f"{name}: {match.group()}" for name, page in read.items()
            if (match := re.search(marks + (r"|~torch\." if name[:3] == "api" else ""), page.text))]


def unexplained(site: Path, read: dict[str, Html]) -> list[str]:
    "Public functions, and comments behind their arguments, that the API pages lack."
    problems = []
    for module in [page.module for page in PAGES if page.module]:
        code = (ROOT / CFG.name / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
        names = re.search(r"^__all__ = \[(.*?)\]", code, re.M | re.S)[1]
        page = read[f"api/{module}.html"]
        text = letters(page.text)
        for name in re.findall(r"'(\w+)'", names):
            start = re.search(rf"^(?:def|class) {name}\b", code, re.M)
            if not start:
                continue  # a table or a constant
            home = CFG.name if module == "__init__" else f"{CFG.name}.{module}"
            if f"{home}.{name}" not in page.ids:
                problems.append(f"{module}.{name}")
            head = re.match(r"def \w+\(\n(.*?)^\)[^\n]*:", code[start.start():], re.S | re.M)
            comments = re.findall(r"^    \w+.*?  # (.+)$", head[1], re.M) if head else []
            problems += [f"{module}.{name}: {comment}" for comment in comments
                         if letters(comment) not in text]
    return problems


def unfound_words(site: Path, read: dict[str, Html]) -> list[str]:
    index = (site / "searchindex.js").read_text(encoding="utf-8")
    index = json.loads(index[index.index("(") + 1: index.rindex(")")])
    terms = index["terms"].keys() | index["titleterms"].keys()
    objects = {prefix for prefix in index["objects"]}
    return [word for word in ("mask", "collaps", "slurm", "patchifi", "checkpoint", "contrast")
            if word not in terms] + [name for name in ("vicmae.model.masking", "vicmae.cli")
                                     if name not in objects]


def browser() -> str | None:
    "A Chromium of the operating system."
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


def in_the_browser(site: Path, read: dict[str, Html]) -> list[str]:
    "Search for a function as a reader does; formulas appear; nothing is fetched from elsewhere."
    from playwright.sync_api import sync_playwright

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args) -> None:
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    home, problems = f"http://127.0.0.1:{server.server_port}", []
    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=browser(), args=CHROMIUM)
        page = chromium.new_page(viewport={"width": 390, "height": 800})
        page.on("request", lambda r: r.url.startswith((home, "data:"))
                or "jsdelivr" in r.url and not mathjax_file() or problems.append(r.url))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(f"{home}/search.html?q=random_masking")
        page.wait_for_selector("#search-results li a", timeout=1000 * PATIENCE)
        found = page.locator("#search-results li a").evaluate_all("all => all.map(a => a.href)")
        for wanted in ("api/model.masking.html", "020_masking.html"):
            if not any(wanted in link for link in found):
                problems.append(f"search for random_masking does not find {wanted}: {found[:5]}")
        page.goto(f"{home}/022_contrast.html")
        if mathjax_file():
            page.wait_for_selector("mjx-container svg", timeout=1000 * PATIENCE)
        for name in ("index", "022_contrast", "api/model.masking"):
            page.goto(f"{home}/{name}.html")
            width = page.evaluate("document.documentElement.scrollWidth")
            if width > 400:
                problems.append(f"{name}: {width} pixels wide on a telephone of 390")
        chromium.close()
    server.shutdown()
    return problems


def test_site(tmp_path: Path) -> None:
    """`make docs` in another folder: every page with its pictures, links that hold, search."""
    site = tmp_path / "site"
    command = [sys.executable, "docs/build.py", "--out", site, "--work", tmp_path / "work",
               "--jobs", "1"]
    done = subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True,
                          timeout=PATIENCE, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    assert ("is a placeholder" in done.stdout) == bool(CFG.placeholder)
    read = {path.relative_to(site).as_posix(): Html(path) for path in site.rglob("*.html")
            if "_static" not in path.parts}
    checks = [missing_pages, missing_pictures, broken_links, leftovers, unexplained, unfound_words]
    if browser():
        checks.append(in_the_browser)
    else:
        warnings.warn("no Chromium here: search was checked by its index alone", stacklevel=1)
    problems = {check.__name__: found for check in checks if (found := check(site, read))}
    assert not problems, "\n".join(f"{what}:\n  " + "\n  ".join(map(str, found[:12]))
                                   for what, found in problems.items())


def test_every_notebook_has_its_part() -> None:
    table = parts(PAGES)
    assert list(table) == [name for _, name in PARTS], "parts in order, none empty"
    assert sum(map(len, table.values())) == len(list(CFG.nbs.glob("*.ipynb"))) - 1


def test_ruff() -> None:
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "--no-cache", "docs"], cwd=ROOT,
                          capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr


# ---------------------------------------------------------------- first page and pictures
def test_pictures_of_the_first_page_are_there_and_small() -> None:
    thumbs = {path.stem: path.stat().st_size for path in (ROOT / THUMBS).glob("*")}
    assert thumbs.keys() == set(NAMES), "python docs/thumbs.py"
    assert max(thumbs.values()) <= 6_000, thumbs
    assert (ROOT / "nbs/images/method.gif").stat().st_size <= 600_000
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "](nbs/images/method.gif)" in text and len(text.encode()) <= 14_000


def test_first_page_names_the_repository_of_settings() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"git clone {CFG.git_url}\n" in text
    for stem in NAMES:
        assert f"](nbs/{stem}.ipynb)" in text, f"{stem} is not in the map: docs/badges.py"
    others = set(re.findall(r"colab\.research\.google\.com/github/[^)]*", text))
    ours = CFG.colab_url("").split("://")[1].rstrip("/")
    assert others and all(ours in other for other in others)


COMMANDS = """
import sys
from vicmae.cli import main
lines, *commands = sys.argv[1:]
exec(lines)
for command in commands:  # in one process: torch is loaded once
    sys.argv = ["vicmae", *command.split()]
    try:
        assert not main(), command
    except SystemExit as end:
        assert not end.code, command
"""


def test_first_commands_of_the_readme_work(tmp_path: Path) -> None:
    """`vicmae reconstruct`, `attend`, `match` and the lines of Python, as they stand."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").split("## Two ways")[0]
    commands = re.findall(r"^vicmae (.*?)(?:\s+#.*)?$", text, re.M)
    assert [line.split()[0] for line in commands] == ["reconstruct", "attend", "match"]
    (tmp_path / "vicmae").mkdir()
    (tmp_path / "vicmae" / "shipped").symlink_to(ROOT / "vicmae" / "shipped")
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    lines = re.search(r"```python\n(.*?)```", text, re.S)[1]
    script = tmp_path / "first" / "commands.py"  # not -c: here a folder `vicmae` is in the way
    script.parent.mkdir()
    script.write_text(COMMANDS)
    done = subprocess.run([sys.executable, script, lines, *commands], cwd=tmp_path, env=env,
                          capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    for line in commands:
        assert list(tmp_path.glob(f"*_{line.split()[0]}.png")), f"{line}: no picture"


# ---------------------------------------------------------------- badges and Colab cells
def test_badges_cells_and_map_follow_settings() -> None:
    """As `make notebooks` leaves them."""
    assert badges.update(ROOT, write=False) == [], "run: python docs/badges.py"


def without(raw: str) -> str:
    "A notebook without its badge and its Colab cell."
    notebook = json.loads(raw)
    first = notebook["cells"][0]
    lines = source(first).split("\n")
    where = [i for i, line in enumerate(lines) if badges.is_badge(line)]
    for i in where:
        del lines[i - 1: i + 1]  # with the empty line above it
    first["source"] = "\n".join(lines).splitlines(keepends=True)
    cells = [cell for cell in notebook["cells"] if not badges.is_colab_cell(cell)]
    return badges.to_json({**notebook, "cells": cells})


def test_badges_change_nothing_else_and_follow_another_owner(tmp_path: Path) -> None:
    shutil.copytree(CFG.nbs, tmp_path / "nbs", ignore=shutil.ignore_patterns(".*"))
    shutil.copy(ROOT / "settings.ini", tmp_path)
    bare = {}
    for name in NAMES:
        path = tmp_path / "nbs" / f"{name}.ipynb"
        bare[name] = without(path.read_text(encoding="utf-8"))
        path.write_text(bare[name], encoding="utf-8")
    state = lambda: {p.name: p.read_text(encoding="utf-8") for p in tmp_path.glob("nbs/*.ipynb")}
    assert len(badges.update(tmp_path)) >= len(NAMES)
    once = state()
    assert badges.update(tmp_path) == [] and state() == once
    for name in NAMES:
        assert without(once[f"{name}.ipynb"]) == bare[name]
        second = json.loads(once[f"{name}.ipynb"])["cells"][1]
        assert badges.is_colab_cell(second) and CFG.git_url in source(second)
    ini = (tmp_path / "settings.ini").read_text(encoding="utf-8")
    (tmp_path / "settings.ini").write_text(
        re.sub(r"^user = .*", "user = someone", ini, flags=re.M)
        .replace(f"repo = {CFG.name}\n", "repo = copy\n")
        .replace(f"branch = {CFG.branch}", "branch = trial"), encoding="utf-8")
    assert badges.update(tmp_path)
    owner = CFG.git_url.split("github.com/")[1]
    for name, text in state().items():
        assert "github/someone/copy/blob/trial/nbs/" in text, name
        assert f"colab.research.google.com/github/{owner}" not in text, name
        assert f"git clone {CFG.git_url}" not in text, name
    (tmp_path / "settings.ini").write_text(ini, encoding="utf-8")
    badges.update(tmp_path)
    assert state() == once


COLAB = """
import sys, types
sys.modules["google"] = types.ModuleType("google")
sys.modules["google.colab"] = types.ModuleType("google.colab")
for _ in range(2):  # run again, the cell does nothing
    exec(sys.argv[1])
import os
from pathlib import Path
import vicmae
print(Path.cwd(), Path("../data_samples/manifest.csv").exists(), vicmae.__file__, sep="\\n")
"""


def git(*command: object, cwd: Path) -> None:
    "Git without the settings of this machine."
    env = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    env |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    names = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *names, *map(str, command)], cwd=cwd, env=env, check=True,
                   timeout=PATIENCE, capture_output=True)


def test_colab_cell_installs_and_brings_the_samples(tmp_path: Path) -> None:
    """The cell as it stands, with a stand-in for google.colab; git and pip are the real ones.

    Git is told to clone a local repository instead of the address in the cell, and pip to install
    without requirements into a folder of the test.
    """
    if not shutil.which("git"):
        pytest.skip("needs git")
    origin, home = tmp_path / "origin", tmp_path / "content"
    for folder in ("nbs", "data_samples", CFG.name):
        shutil.copytree(ROOT / folder, origin / folder,
                        ignore=shutil.ignore_patterns("__pycache__", ".*"))
    for name in ("settings.ini", "setup.py", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, origin / name)
    git("init", "--quiet", "--initial-branch", CFG.branch, cwd=origin)
    git("add", "--all", cwd=origin)
    git("commit", "--quiet", "--message", "a copy", cwd=origin)
    target = tmp_path / "installed"
    home.mkdir()
    target.mkdir()
    env = {k: v for k, v in os.environ.items() if not k.startswith(("GIT_", "PIP_", "PYTHONPATH"))}
    env |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"url.file://{origin}.insteadOf", "GIT_CONFIG_VALUE_0": CFG.git_url,
            "PIP_NO_DEPS": "1", "PIP_NO_INDEX": "1", "PIP_TARGET": str(target),
            "PIP_NO_BUILD_ISOLATION": "0", "PYTHONPATH": str(target)}
    cell = badges.colab_cell(CFG)
    extra = "".join(f', "{requirement}"' for requirement in CFG.colab_requirements)
    assert extra in cell
    done = subprocess.run([sys.executable, "-c", COLAB, cell.replace(extra, "")], cwd=home, env=env,
                          capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    folder, samples, module = done.stdout.strip().splitlines()[-3:]
    assert Path(folder).resolve() == (home / CFG.name / "nbs").resolve() and samples == "True"
    assert Path(module).resolve().is_relative_to(target.resolve())


def test_colab_cell_does_nothing_elsewhere(tmp_path: Path) -> None:
    code = badges.colab_cell(CFG)
    names: dict = {}
    before = os.getcwd()
    exec(code, names)
    assert os.getcwd() == before and names.keys() <= {"__builtins__", "sys"}
