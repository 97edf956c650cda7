import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from agentlib.metrics.intervals import Interval
from agentlib.plots.curves import Curve, learning_curves, smooth
from agentlib.plots.pictures import png
from agentlib.plots.report import Highlight, Picture, Prose, Report, Table, provenance, write_json

TABLE = Table("Seeds <&>", ("", "ours", "theirs"), (("seed 0", "1.0", "20.0"), ("seed 1", "300.0", "4.0")), "A note.")


class Tags(HTMLParser):
    """Every tag with its attributes, and whether each that was opened is closed."""

    def __init__(self, text):
        super().__init__()
        self.seen, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in {"meta", "img"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def page():
    curve = Curve([10, 20, 30], [1.0, 2.0, 3.0])
    picture = Picture("Curves", png(learning_curves({"ours": [curve], "theirs": [curve]}, title="Title")), "two curves")
    prose = Prose("Method", ("First <b>.", "Second."))
    return Report("A & B", "What was found.", (Highlight("Return", "500", "of 500"),), (TABLE, picture, prose))


def test_the_page_needs_nothing_beside_itself():
    html = page().html()
    tags = Tags(html)
    assert tags.open == []
    assert {"script", "link", "iframe", "a"}.isdisjoint(tag for tag, _ in tags.seen)
    assert "http" not in html
    assert "url(" not in html
    assert "@import" not in html
    (image,) = [attributes for tag, attributes in tags.seen if tag == "img"]
    assert image["src"].startswith("data:image/png;base64,iVBOR")
    assert image["alt"] == "two curves"


def test_texts_are_escaped():
    html = page().html()
    assert "A &amp; B" in html
    assert "Seeds &lt;&amp;&gt;" in html
    assert "First &lt;b&gt;." in html


def test_a_table_is_aligned_in_plain_text():
    title, head, rule, first, second = str(TABLE).splitlines()
    assert title == "Seeds <&>"
    assert len(head) == len(rule) == len(first) == len(second)
    assert first == "seed 0    1.0    20.0"


def test_json_is_strict(tmp_path):
    write_json(
        tmp_path / "a.json",
        {
            "nan": math.nan,
            "inf": np.float32(np.inf),
            "array": np.arange(3),
            "interval": Interval(0.5, math.nan),
            "table": TABLE,
            "path": Path("x"),
            3: (True, None),
        },
    )
    read = json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail)
    assert read["nan"] is read["inf"] is None
    assert read["array"] == [0, 1, 2]
    assert read["interval"] == {"low": 0.5, "high": None}
    assert read["table"]["title"] == "Seeds <&>"
    assert read["path"] == "x"
    assert read["3"] == [True, None]


def test_provenance_says_with_what_but_not_where(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/agentlib", "compare", "dqn", "--env", "a b"])
    origin = provenance()
    assert origin["command"] == "agentlib compare dqn --env 'a b'"
    assert origin["versions"]["numpy"] == np.__version__
    assert origin["machine"]["cores"] >= 1
    assert re.match(r"\d{4}-\d\d-\d\dT", origin["made"])


def test_smoothing_averages_the_last_episodes():
    curve = Curve([10, 20, 30, 40], [1.0, 3.0, 5.0, 7.0])
    grid = np.array([0.0, 10.0, 25.0, 40.0, 99.0])
    np.testing.assert_array_equal(smooth(curve, grid, window=2), [np.nan, 1.0, 2.0, 6.0, 6.0])
    assert np.isnan(smooth(Curve([], []), grid, window=2)).all()


def test_the_picture_shows_each_seed_and_the_mean():
    curves = [Curve([10, 20, 30], [0.0, 0.0, value]) for value in (1.0, 3.0)]
    figure = learning_curves({"ours": curves, "theirs": curves[:1]}, title="Title", window=1)
    (axes,) = figure.axes
    thick = [line for line in axes.lines if line.get_linewidth() > 2]
    assert [line.get_label() for line in thick] == ["ours (mean of 2 seeds)", "theirs (1 seed)"]
    assert len(axes.lines) == 5
    assert np.asarray(thick[0].get_ydata())[-1] == 2.0
    assert axes.get_xlabel() == "Environment steps"
    assert png(figure).startswith(b"\x89PNG")


def test_pictures_that_cannot_be_drawn(monkeypatch):
    with pytest.raises(ValueError, match="no curve"):
        learning_curves({"ours": [Curve([], [])]}, title="")
    with pytest.raises(ValueError, match="at most 8"):
        learning_curves({str(index): [Curve([1], [1.0])] for index in range(9)}, title="")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"agentlib-rl\[plots\]"):
        learning_curves({"ours": [Curve([1], [1.0])]}, title="")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "heavy"),
    [
        ("import agentlib.metrics", {"torch", "stable_baselines3", "matplotlib", "scipy"}),
        ("import agentlib.sb3", {"stable_baselines3", "matplotlib", "scipy"}),
        (
            "from agentlib.plots.curves import *\nfrom agentlib.plots.pictures import png\n"
            "png(learning_curves({'ours': [Curve([1, 2], [1.0, 2.0])]}, title=''))",
            {"torch", "matplotlib.pyplot"},
        ),
    ],
)
def test_imports_are_light_and_pictures_leave_pyplot_alone(code, heavy):
    code += f"\nimport sys; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
