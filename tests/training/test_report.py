"""The report of a run: one self-contained file, missing parts named, untrusted input escaped."""

import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from rawgan.cli.main import app
from rawgan.errors import UserError
from rawgan.report import charts, page
from rawgan.report.read import Reader, evenly, thinned
from tests.support.runs import SCORES

CONFIG = {
    "recipe": "wgan_gp",
    "data": "digits",
    "size": 16,
    "channels": 1,
    "steps": 40,
    "seed": 3,
    "lr": None,
}
CONFIG |= {"versions": {"rawgan": "0.1.0", "numpy": "2.4"}, "commit": "0123abc"}
CLASSIFIER = {"task": "classes", "accuracy": 0.9, "sha256": "ab" * 32}


@pytest.fixture
def run(tmp_path, rng):
    """Return a run folder with every kind of file."""
    folder = tmp_path / "some-run"
    (folder / "samples").mkdir(parents=True)
    for step in range(0, 50, 2):
        Image.fromarray(rng.integers(0, 256, (9, 9), dtype=np.uint8)).save(
            folder / "samples" / f"step_{step:06}.png"
        )
    (folder / "config.json").write_text(json.dumps(CONFIG))
    steps = range(10, 50, 10)
    metrics = [
        "step,d_loss,g_loss,d_real,d_fake,penalty,gradient_norm",
        *(f"{s},1,-{s}.5,0.5,nan,0,1" for s in steps),
    ]
    (folder / "metrics.csv").write_text("\n".join(metrics) + "\n")
    gradients = [
        "step,generator.0.w,generator.0.b,generator.2.w,discriminator.0.w",
        *(f"{s},3,4,0,{s}" for s in steps),
    ]
    (folder / "gradients.csv").write_text("\n".join(gradients) + "\n")
    norms = ["step,norm", *(f"{s},{n}" for s in steps for n in rng.normal(1, 0.1, 50))]
    (folder / "penalty_norms.csv").write_text("\n".join(norms) + "\n")
    evaluation = {
        "count": 100,
        "seed": 0,
        "data": "digits",
        "test": "its own test split",
        "classifier": CLASSIFIER,
    }
    evaluation |= {
        "scores": {
            "samples": SCORES,
            "train": SCORES | {"frechet": 0.125},
            "noise": SCORES | {"frechet": 625},
        }
    }
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    (folder / "diagnosis.txt").write_text("step 30: the samples collapse\n\n")
    return folder


class Links(HTMLParser):
    """Parser that collects the links and the text of a page."""

    def __init__(self, html):
        super().__init__()
        self.urls, self.text, self.open = [], "", []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.urls += [
            value
            for name, value in attributes
            if name in ("src", "href", "xlink:href", "action", "srcset", "data")
        ]
        if tag not in ("meta", "img", "path", "use", "image", "rect"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag in self.open:
            assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text += data


def test_a_whole_run(run):
    html = page(run)
    got = Links(html)
    assert got.open == [], "every element is closed"
    for word in (
        "some-run",
        "wgan_gp",
        "0123abc",
        "of 40",
        "step 30: the samples collapse",
        "12.5",
        "0.125",
        "625",
        "3 ± 0.25",
    ):
        assert word in got.text, word
    for title in (
        "Losses",
        "Mean score of D",
        "Penalty",
        "Gradient norm of D",
        "layer, generator",
        "layer, discriminator",
        "single",
    ):
        assert title in got.text, title
    assert html.count("<svg") == 7 and html.count("data:image/png") == 1 + 12 + html.count(
        'href="data:image/png'
    )
    assert "12 of 25 grids" in got.text and "What is not shown" not in got.text


def test_nothing_is_fetched(run):
    html = page(run)
    assert all(re.match("data:image/png;base64,|#", url) for url in Links(html).urls)
    assert "default-src 'none'" in html and "<script" not in html
    assert not re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?\s*(?:https?:)?//", html)


def test_names_in_svgs_are_unique_and_svgs_are_whole(run):
    html = page(run)
    svgs = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    for svg in svgs:
        ElementTree.fromstring(svg)
    names = [name for svg in svgs for name in set(re.findall(r'\bid="([^"]*)"', svg))]
    assert len(names) == len(set(names))
    for svg in svgs:
        assert set(re.findall(r'(?:url\(|href=")#([^")]*)', svg)) <= set(
            re.findall(r'\bid="([^"]*)"', svg)
        )
        assert (
            "currentColor" in svg
            and charts.INK not in svg
            and not re.search(r"^<svg[^>]*\s(width|height)=", svg)
        )


def test_the_same_run_gives_the_same_bytes(run):
    assert page(run) == page(run)


def test_an_empty_folder_says_what_is_missing(tmp_path):
    text = Links(page(tmp_path)).text
    names = (
        "config.json",
        "metrics.csv",
        "gradients.csv",
        "penalty_norms.csv",
        "evaluation.json",
        "diagnosis.txt",
        "samples/step_",
    )
    for name in names:
        assert re.search(rf"{re.escape(name)}\S* is not in the run folder", text), name
    assert "What was trained is not known" in text and "rawgan evaluate RUN" in text


@pytest.fixture
def bare(tmp_path):
    """Return a run folder with a config only, whose report is quick to write."""
    folder = tmp_path / "bare"
    (folder / "samples").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def test_nothing_complained_of(bare):
    (bare / "diagnosis.txt").write_text("")
    assert "The diagnostics gave no warning" in page(bare)


@pytest.mark.parametrize(
    "name, content",
    [
        ("config.json", b"{"),
        ("config.json", b"[1]"),
        ("config.json", b"[" * 100_000),
        ("config.json", b"\xff\xfe"),
        ("evaluation.json", b"null"),
        ("metrics.csv", b""),
        ("metrics.csv", b"step,d_loss\n1,one\n"),
        ("metrics.csv", b"step,d_loss\n1,2,3\n"),
        ("metrics.csv", b"step,step\n1,2\n"),
        ("metrics.csv", b"d_loss\n1\n"),
        ("gradients.csv", b"step\n"),
        ("penalty_norms.csv", b"\0\n1\n"),
        ("samples/step_000048.png", b"<svg onload=alert(1)>"),
    ],
)
def test_a_broken_file_is_said(bare, name, content):
    (bare / name).write_bytes(content)
    got = Links(page(bare)).text
    assert "What is not shown" in got and re.search(rf"{name} (is no |cannot|has no)", got)


@pytest.mark.parametrize(
    "content",
    [
        {"scores": 3},
        {"scores": {"samples": 1, "train": 2, "noise": 3}},
        {"scores": {"samples": {"frechet": "<b>", "kid": None}, "train": {}, "noise": {}}},
        {"classifier": "me", "scores": {"samples": SCORES, "train": SCORES, "noise": SCORES}},
        {
            "classifier": {"accuracy": "high", "sha256": 5},
            "scores": {"samples": SCORES, "train": SCORES, "noise": SCORES},
        },
    ],
)
def test_an_evaluation_of_another_kind(bare, content):
    (bare / "evaluation.json").write_text(json.dumps(content))
    assert "<b>" not in page(bare).split("Evaluation")[1].split("Curves")[0]


@pytest.mark.parametrize("key", ["classifier", "judge"])
def test_the_classifier_of_an_evaluation(bare, key):
    """Earlier versions of evaluation.json call the classifier "judge"."""
    content = {key: CLASSIFIER} | {"scores": dict.fromkeys(("samples", "train", "noise"), SCORES)}
    (bare / "evaluation.json").write_text(json.dumps(content))
    got = " ".join(Links(page(bare)).text.split())
    assert "The classifier finds 90.00 % of the test pictures' classes" in got
    assert CLASSIFIER["sha256"][:12] in got


def test_a_config_of_another_kind(bare):
    (bare / "config.json").write_text(json.dumps({"versions": 3, "steps": "many", "recipe": ["x"]}))
    assert "many" in page(bare)


def test_what_the_files_say_is_no_html(run):
    evil = "<script>alert(1)</script>"
    (run / "config.json").write_text(json.dumps(CONFIG | {"recipe": evil, evil: evil}))
    (run / "diagnosis.txt").write_text(evil)
    (run / "gradients.csv").write_text(f"step,{evil}.0.w,a.{evil}.w\n1,2,3\n")
    html = page(run)
    assert "<script" not in html and "alert(1)" in html


def test_a_line_that_was_cut_off_is_left_out(run):
    with open(run / "metrics.csv", "a") as file:
        file.write("50,1.0,2")
    assert Reader(run).table("metrics.csv")["step"].tolist() == [10, 20, 30, 40]


def test_long_tables_are_thinned(tmp_path):
    """About `most` evenly spaced rows are kept, and always the last."""
    rows = "".join(f"{step},{2 * step}\n" for step in range(0, 1001))
    (tmp_path / "a.csv").write_text(f"step,loss\n{rows}")
    header, values = thinned(tmp_path / "a.csv", ("step",), 100)
    assert header == ["step", "loss"] and (values[:, 1] == 2 * values[:, 0]).all()
    steps = values[:, 0]
    assert len(steps) in (91, 92) and set(np.diff(steps)[:-1]) == {11} and steps[-1] == 1000


def test_step_0_is_a_step(tmp_path):
    (tmp_path / "a.csv").write_text("step,loss\n0,1\n")
    assert thinned(tmp_path / "a.csv", ("step",), 100)[1].tolist() == [[0, 1]]
    (tmp_path / "a.csv").write_text("step,loss\n-1,1\n")
    with pytest.raises(ValueError, match="its steps are not all from 0"):
        thinned(tmp_path / "a.csv", ("step",), 100)


def test_a_huge_file_is_not_read(run, monkeypatch):
    monkeypatch.setattr("rawgan.report.read.TABLE_BYTES", 50)
    assert "metrics.csv cannot be read" in page(run)


def test_a_file_that_cannot_be_opened_is_said(bare):
    (bare / "metrics.csv").mkdir()
    assert "metrics.csv cannot be read" in page(bare)


def test_curves_with_nothing_finite():
    assert "<svg" in charts.lines([1, 2], {"loss": [float("nan"), float("inf")]}, "x")
    assert charts.norms({"step": [1], "norm": [float("nan")]}) is None and "<svg" in charts.norms(
        {"step": [5], "norm": [0.0]}
    )
    assert charts.gradients({"step": [1.0]}) == []


def test_long_curves_are_thinned():
    n = 40 * charts.POINTS
    assert len(charts.lines(list(range(n)), {"loss": list(np.sin(np.arange(n)))}, "x")) < 100_000


def test_evenly():
    assert evenly(list(range(5)), 12) == [0, 1, 2, 3, 4] and evenly(list(range(100)), 3) == [
        0,
        50,
        99,
    ]


def test_the_command(run):
    got = CliRunner().invoke(app, ["report", str(run)])
    assert got.exit_code == 0 and (run / "report.html").read_text() == page(run)
    elsewhere = run / "there.html"
    assert (
        CliRunner().invoke(app, ["report", str(run), "--out", str(elsewhere)]).exit_code == 0
        and elsewhere.exists()
    )


def test_no_run(tmp_path):
    with pytest.raises(UserError, match="no run folder"):
        page(tmp_path / "nothing")
    assert CliRunner().invoke(app, ["report", str(tmp_path / "nothing")]).exit_code == 2


def test_layers_have_their_names(run):
    """Gradient curves name the layer's class where config.json names a recipe and its sizes."""
    text = Links(page(run)).text
    assert "2 BatchNorm" not in text
    (run / "config.json").write_text(json.dumps(CONFIG | {"width": 8}))
    text = Links(page(run)).text
    for name in ("0 Reshape", "2 BatchNorm", "0 Conv2d"):  # of the columns in gradients.csv
        assert name in text, name


def test_animation_and_interpolation(run, rng):
    """progress.gif and the files of rawgan interpolate are shown; none of them is required."""
    assert "rawgan interpolate RUN" in Links(page(run)).text
    frames = [Image.fromarray(rng.integers(0, 256, (9, 9), dtype=np.uint8)) for _ in range(3)]
    names = ["progress.gif", "interpolation-linear.png", "interpolation-spherical.gif"]
    for name in names:
        options = {"save_all": True, "append_images": frames[1:]} if name.endswith("gif") else {}
        frames[0].save(run / name, **options)
    html = page(run)
    assert html.count("data:image/gif") == 2 and "rawgan interpolate RUN" not in html
    assert all(name in Links(html).text for name in names)
    (run / "progress.gif").write_bytes(b"no animation")
    assert "progress.gif is no GIF" in Links(page(run)).text


def test_every_picture_can_be_enlarged(run):
    """Each picture is a link to its own figure, which the style sheet shows in full when named."""
    html = page(run)
    figures = re.findall(r'<figure id="([^"]+)"><a href="#([^"]+)"[^>]*><img', html)
    assert len(figures) == html.count("<img ") > 5
    assert all(name == link for name, link in figures)
    assert len({name for name, _ in figures}) == len(figures)


def test_smoothed_curves():
    """The moving average begins without bias, keeps constants, and leaves gaps as gaps."""
    assert np.allclose(charts.smoothed(np.full(100, 3.0)), 3.0)
    noise = np.random.default_rng(0).normal(size=2000)
    assert charts.smoothed(noise)[500:].std() < 0.2 * noise.std()
    values = np.array([1.0, np.nan, 3.0, 5.0])
    assert np.array_equal(charts.smoothed(values), values, equal_nan=True)  # too few to average
    assert np.isnan(charts.smoothed(np.full(5, np.nan))).all()
