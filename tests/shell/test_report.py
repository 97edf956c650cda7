"""One page about runs: right numbers, and right to look at on a telephone and on a desk, in light and in the dark."""

import json
import re
import shutil
import subprocess
from html import escape, unescape
from typing import Any

import numpy as np
import pytest

import agentlib
from agentlib.core import Cosine, Warmup
from agentlib.core.config import config_to_json
from agentlib.learners import GPTConfig
from agentlib.metrics import t_interval
from agentlib.runs import report
from agentlib.shell.main import main

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SMALL = {"learning_starts": 20, "train_freq": 5, "gradient_steps": 1, "batch_size": 8, "net_arch": (8,)}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs that differ in their seed, one with another learning rate, and one of data."""
    folder = tmp_path_factory.mktemp("runs")
    shared: Any = {"env": "CartPole-v1", "steps": 120, "progress": False, "compile": False, "eval_every": 50, **SMALL}
    runs: Any = {"a0": {"seed": 0}, "a1": {"seed": 1}, "b0": {"learning_rate": 1e-4}}
    for name, changed in runs.items():
        agentlib.train("dqn", out=folder / name, **{**shared, **changed})
    agentlib.train("classifier", data="digits", steps=20, out=folder / "digits", progress=False, compile=False)
    return folder


def page(runs, *names):
    out = runs / "report.html"
    assert main(["report", *(str(runs / name) for name in names), "--out", str(out)]) == 0
    return out.read_text()


def text_of(html):
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", re.sub(r"<style>.*?</style>", "", html, flags=re.S))))


def test_runs_that_differ_in_their_seed_are_one_column_with_its_interval(runs, capsys):
    text = text_of(page(runs, "a0", "a1", "b0"))
    assert capsys.readouterr().out.endswith("report.html: 3 runs\n")
    values = [
        json.loads((runs / name / "results.json").read_text())["metrics"]["eval/mean_reward"] for name in ("a0", "a1")
    ]
    low, high = t_interval(values)
    found = re.search(r"eval/mean_reward (-?[\d.]+) \[(-?[\d.]+), (-?[\d.]+)\] \(2\)", text)
    assert found is not None
    np.testing.assert_allclose([float(one) for one in found.groups()], [np.mean(values), low, high], rtol=1e-3)
    assert "3 runs of 2 kinds" in text
    assert "dqn on CartPole-v1, learning_rate=0.0001" in text
    assert "Settings that differ" in text


def test_the_same_run_given_twice_is_one(runs, capsys):
    text = text_of(page(runs, "a0", "b0/../a0"))
    assert capsys.readouterr().out.endswith("report.html: 1 run\n")
    assert "1 run." in text


def test_one_run_shows_its_baselines_pictures_and_use(runs):
    html = page(runs, "digits")
    text = text_of(html)
    assert re.search(r"test/accuracy [\d.]+ [\d.]+ ", text)
    assert html.count("data:image/png") >= 1
    assert f"Agent.load({str(runs / 'digits' / 'agent.safetensors')!r})" in text
    assert "Settings that differ" not in text


def test_the_page_of_a_run_says_how_its_agent_is_used(runs):
    text = text_of((runs / "a0" / "report.html").read_text())
    assert f"Agent.load({str(runs / 'a0' / 'agent.safetensors')!r})" in text


def test_a_schedule_inside_of_another_reads_as_python():
    """Not as the dictionary that it is in the file."""
    schedule = Warmup(then=Cosine(1e-3, 1e-4), updates=100)
    text = report._text(config_to_json(GPTConfig(learning_rate=schedule))["learning_rate"])
    assert text == "Warmup(then=Cosine(start=0.001, end=0.0001, over=1.0), updates=100, over=0.0)"


def test_what_is_no_run(runs, tmp_path, capsys):
    assert main(["report"]) == 2
    assert main(["report", str(tmp_path)]) == 1
    assert main(["report", str(runs / "a0"), "--out", "page.pdf"]) == 2
    shutil.copytree(runs / "a0", tmp_path / "broken")
    (tmp_path / "broken" / "results.json").write_text("[1")
    assert main(["report", str(tmp_path / "broken")]) == 1
    errors = capsys.readouterr().err.strip().splitlines()
    assert [line for line in errors if "report DIR" in line or "no run" in line or ".html" in line or "damaged" in line]
    assert len(errors) == 4


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("names", [("a0",), ("digits",), ("a0", "a1", "b0")], ids="-".join)
def test_in_a_browser_nothing_overflows(names, width, runs):
    """In a frame of that width, since a window has a least one; wide tables scroll by themselves."""
    frame = runs / "frame.html"
    script = (
        "onload = () => { const page = document.querySelector('iframe').contentDocument.documentElement;"
        "const images = [...page.querySelectorAll('img')], beyond = page.scrollWidth - page.clientWidth;"
        "document.title = 'beyond ' + beyond + ' missing ' + images.filter(image => !image.naturalWidth).length; }"
    )
    inside = escape(page(runs, *names))
    frame.write_text(f'<title></title><iframe style="border:0;width:{width}px" srcdoc="{inside}"></iframe>'
                     f"<script>{script}</script>")  # fmt: skip
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"]
    done = subprocess.run(
        [*command, "--dump-dom", "--window-size=1400,900", frame.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "<title>beyond 0 missing 0</title>" in done.stdout
    assert "CONSOLE" not in done.stderr
