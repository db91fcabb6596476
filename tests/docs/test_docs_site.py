"""The documentation site builds without a warning, works in a browser, and loads nothing remote."""

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import urlopen

import pytest

from docs.ext import mathml, source
from tests.support.process import run_process

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ABROAD = {"https://github.com/pradyunsg/furo"}  # the theme's own signature: a link, not a request


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """Return the folder of the built site."""
    folder = tmp_path_factory.mktemp("site")
    done = run_process([sys.executable, "-m", "docs.build", folder], cwd=ROOT, timeout=300)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return folder


class Page(HTMLParser):
    """Parser that collects the ids of a page, its links, and the resources that it loads."""

    def __init__(self, path: Path):
        super().__init__()
        self.path, self.ids, self.links, self.loads, self.formulas = path, set(), [], [], 0
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids |= {attributes[name] for name in ("id", "name") if attributes.get(name)}
        self.formulas += tag == "math"
        if tag == "a" and "href" in attributes:
            self.links.append(attributes["href"])
        elif tag == "link" and attributes.get("rel") in (
            "stylesheet",
            "icon",
            "preload",
            "preconnect",
        ):
            self.loads.append(attributes["href"])
        elif "src" in attributes:
            self.loads.append(attributes["src"])


@pytest.fixture(scope="session")
def pages(site):
    return {path.relative_to(site).as_posix(): Page(path) for path in sorted(site.rglob("*.html"))}


def test_every_source_is_a_page(pages):
    assert {f"{path.stem}.html" for path in (ROOT / "docs").glob("*.md")} <= pages.keys()
    assert {
        "code/rawgan/ops/conv.py.html",
        "code/rawgan/kernels/conv_pointer.py.html",
        "code/rawgan/penalties.py.html",
    } <= pages.keys()


def test_every_link_is_alive(site, pages):
    dead = []
    for name, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                assert link in ABROAD, f"{name} links to {link}"
                continue
            target = (
                name
                if not parts.path
                else os.path.normpath(os.path.join(os.path.dirname(name), unquote(parts.path)))
            )
            if not (site / target).is_file() or (
                parts.fragment and unquote(parts.fragment) not in pages[target].ids
            ):
                dead.append((name, link))
    assert dead == []


def test_nothing_is_loaded_from_elsewhere(site, pages):
    for name, page in pages.items():
        for url in page.loads:
            assert not urlsplit(url).scheme and not url.startswith("//"), f"{name} loads {url}"
    for style in site.rglob("*.css"):
        urls = re.findall(
            r"(?:@import\s*|url\()\s*[\"']?((?:https?:)?//[^\"')]+)", style.read_text()
        )
        assert urls == [], f"{style.name} loads {urls}"


def test_formulas_are_mathml(pages):
    """Every $...$ of the sources outside code becomes a <math> element."""
    for path in (ROOT / "docs").glob("*.md"):
        text = re.sub(r"^(`{3,}).*?^\1", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
        captions = "".join(
            re.findall(
                r"^```\{drawing\}.*?\n((?!:).*?)^```", path.read_text(), re.DOTALL | re.MULTILINE
            )
        )
        text = re.sub(r"`[^`]*`", "", text + re.sub(r"^:.*$", "", captions, flags=re.MULTILINE))
        count = len(re.findall(r"\$\$.*?\$\$|\$[^$]+?\$", text, re.DOTALL))
        assert pages[f"{path.stem}.html"].formulas >= count, path.name


def test_site_is_served(site):
    """`serve` serves the folder on this machine."""
    code = "import sys; from docs.build import serve; serve(sys.argv[1], port=0)"
    with subprocess.Popen(
        [sys.executable, "-c", code, site], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            address = re.search(r"http://localhost:\d+", server.stdout.readline())[0]
            with urlopen(f"{address}/index.html", timeout=20) as page:
                assert page.read() == (site / "index.html").read_bytes()
        finally:
            server.terminate()


MISSING = {
    "no function": (
        lambda: source.quote("rawgan/ops/conv.py", "conv3d"),
        "there is no conv3d in rawgan/ops/conv.py",
    ),
    "no line": (
        lambda: source.quote("rawgan/ops/conv.py", "conv2d", "no such line"),
        "stands in 0 lines of conv2d",
    ),
    "no end": (
        lambda: source.quote("rawgan/ops/conv.py", "conv2d", None, "no such line"),
        "does not stand in conv2d",
    ),
    "no file": (
        lambda: source.quote("rawgan/ops/fft.py", "fft"),
        "there is no file rawgan/ops/fft.py",
    ),
    "no file to link": (
        lambda: source.reference("rawgan/ops/fft.py", "fft"),
        "there is no file rawgan/ops/fft.py",
    ),
    "no test": (
        lambda: source.find_test("tests/math/test_conv.py::test_fft"),
        "there is no test_fft in tests/math/test_conv.py",
    ),
    "no case": (
        lambda: source.find_test("tests/math/test_conv.py::test_both[two pixels]"),
        "has no case 'two pixels'",
    ),
    "no command": (
        lambda: mathml.mathml("\\nosuchcommand{x}", "inline"),
        "a command was not understood",
    ),
}


@pytest.mark.parametrize("call, words", MISSING.values(), ids=MISSING)
def test_what_does_not_exist_is_an_error(call, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        call()


def test_quoted_lines():
    code, first, last = source.quote("rawgan/layers/linear.py", "Linear.double_backward")
    lines = (ROOT / "rawgan/layers/linear.py").read_text().splitlines()
    assert code.splitlines() == [line[4:] for line in lines[first - 1 : last]]
    assert code.startswith("def double_backward") and "return ddy, None" in code
    body, _, _ = source.quote("rawgan/ops/linear.py", "linear_dx")
    whole, _, _ = source.quote("rawgan/ops/linear.py", "linear_dx", docstring=True)
    assert '"""' in whole and '"""' not in body and whole.endswith(body.splitlines()[-1])


BROKEN = {
    "```{source} rawgan/ops/conv.py conv3d\n```": "index.md:3: ERROR: there is no conv3d",
    "```{drawing} nothing\n```": "draws nothing",
    "{test}`tests/math/test_conv.py::test_fft`": "there is no test_fft in tests/math/test_conv.py",
    "$\\nosuchcommand{x}$": "index.md:3: WARNING: a command was not understood",
    "[there](nowhere.md)": "nowhere.md",
}


@pytest.mark.parametrize("text, words", BROKEN.items())
def test_what_does_not_exist_fails_the_build(tmp_path, text, words):
    shutil.copy(ROOT / "docs/conf.py", tmp_path)
    (tmp_path / "style").mkdir()
    (tmp_path / "index.md").write_text(f"# A page\n\n{text}\n")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", tmp_path, tmp_path / "out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = run_process(command, cwd=ROOT, env=environment, timeout=120)
    assert done.returncode != 0 and words in done.stderr, done.stderr


# Tests in a browser

in_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium is not installed (Debian: apt-get install chromium)"
)
LOOK = """() => {
    const words = document.querySelector("article").cloneNode(true);
    words.querySelectorAll("pre, code, math, svg").forEach(e => e.remove());
    const all = selector => [...document.querySelectorAll(selector)];
    const side = e => { const b = e.getBoundingClientRect(); return Math.min(b.width, b.height); };
    return {
        width: document.documentElement.scrollWidth,
        flat: all("math").filter(e => side(e) < 4).map(e => e.textContent),
        wide: all(".formula").filter(e => e.scrollWidth > e.clientWidth + 1)
            .map(e => e.textContent),
        empty: all("figure svg").filter(e => side(e) < 40).length,
        cut: all("article *").filter(e => {
            const style = getComputedStyle(e), x = style.overflowX;
            const hint = style.backgroundAttachment.includes("local");
            return e.clientWidth && e.scrollWidth > e.clientWidth + 1 && x != "visible"
                && !(["auto", "scroll"].includes(x) && hint);
        }).map(e => e.tagName + "." + e.className),
        beyond: all("article math").filter(e => !e.closest(".formula, .table-wrapper, figure")
            && e.getBoundingClientRect().right > innerWidth).map(e => e.textContent),
        raw: words.textContent.match(/\\\\[a-zA-Z]+|\\$[^\\s]/g) || [],
        ink: getComputedStyle(document.querySelector("article")).color,
        paper: getComputedStyle(document.body).backgroundColor,
    };
}"""


@pytest.fixture(scope="session")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


LISTINGS = (
    "code/rawgan/ops/conv.py.html",
    "code/rawgan/kernels/conv_pointer.py.html",
    "code/rawgan/kernels/tile/epilogue.py.html",
)


def look(browser, site, names, **options):
    """Return {name: measurement by LOOK}; assert no network request and no error."""
    tab, seen, asked, failed = browser.new_page(**options), {}, [], []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("pageerror", lambda error: failed.append(str(error)))
    tab.on("requestfailed", lambda request: failed.append(request.url))
    for name in names:
        tab.goto((site / name).as_uri())
        seen[name] = tab.evaluate(LOOK)
    tab.close()
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == [] and failed == []
    return seen


def brightness(colour: str) -> float:
    red, green, blue = map(int, re.findall(r"\d+", colour)[:3])
    return (0.3 * red + 0.6 * green + 0.1 * blue) / 255


@in_browser
def test_on_a_phone(browser, site, pages):
    """At 390 pixels formulas are rendered and no page scrolls sideways, listings included.

    No LaTeX source is left in the pages.
    """
    names = [name for name in pages if name in LISTINGS or not name.startswith("code/")]
    for name, seen in look(browser, site, names, viewport={"width": 390, "height": 844}).items():
        assert (seen["width"], seen["flat"], seen["empty"], seen["raw"]) == (390, [], 0, []), name
        assert brightness(seen["paper"]) - brightness(seen["ink"]) > 0.6, name


@in_browser
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_cut_off(browser, site, pages, width):
    """What is wider than the page scrolls, and a shadow at its side shows that it does."""
    names = [name for name in pages if name in LISTINGS or not name.startswith("code/")]
    for name, seen in look(browser, site, names, viewport={"width": width, "height": 844}).items():
        assert (seen["width"], seen["cut"], seen["beyond"]) == (width, [], []), name


@in_browser
def test_on_a_desk_at_night(browser, site, pages):
    """At 1440 pixels in dark mode every formula fits its column, with light text on dark."""
    names = [name for name in pages if not name.startswith("code/")]
    for name, seen in look(
        browser, site, names, viewport={"width": 1440, "height": 900}, color_scheme="dark"
    ).items():
        assert (seen["flat"], seen["wide"]) == ([], []), name
        assert brightness(seen["ink"]) - brightness(seen["paper"]) > 0.6, name


@in_browser
def test_search_finds(browser, site):
    tab = browser.new_page()
    tab.goto((site / "search.html").as_uri() + "?q=projection")
    tab.wait_for_selector("ul.search li a", timeout=10_000)
    assert any(
        "norm.html" in link.get_attribute("href")
        for link in tab.query_selector_all("ul.search li a")
    )
    tab.close()
