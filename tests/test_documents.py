"""Every Python block of the documents runs, every example with a small budget, and the documents name what is there."""

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest

import agentlib
from agentlib.catalog import LEARNERS
from benchmarks.experiments import RESULTS, experiments
from tests.test_architecture import FLOORS

ROOT = Path(__file__).parent.parent
AT_THE_ROOT = [ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG", "SECURITY")]
DOCUMENTS = sorted([*AT_THE_ROOT, *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
FILE_NAME = re.compile(r"# (\w+\.py)\n")
"""The first line of a block that is a file of this name for the blocks and lines that follow."""

FULL = os.environ.get("AGENTLIB_DOCUMENTS") == "full"
"""`make results` runs the documents as they are, and holds the numbers that they say."""
LENGTH = re.compile(r"\b(steps|updates|updates_for)([=( ]|, )(\d[\d_]*)")
PLAYED = re.compile(r"\b(episodes)([= ])(\d+)")
ROUNDS = re.compile(r"\b(rounds|epochs|rollout_round_min_episodes|trials|compare[-_]seeds)(\W{1,3})(\d+)")
ABOUT = re.compile(r"# .*?\babout (-?[\d.]*\d)")
"""A number that a line prints."""
SECONDS = re.compile(r"# (?:[^\n]*?\b)?(\d+) s\b")
"""How long a block, or a line of the shell, takes up to there since the number before."""


def blocks(document, language):
    return [code for kind, code in BLOCK.findall(document.read_text(encoding="utf-8")) if kind == language]


def shortened(code):
    """Long runs are cut; nothing else of a block is changed."""
    if FULL:
        return code
    most = 1_500 if re.search(r"env|updates_for", code) else 3_000 if "--resume" in code else 40

    def cut(limit):
        return lambda found: f"{found[1]}{found[2]}{min(int(found[3]), limit)}"

    return ROUNDS.sub(cut(2), PLAYED.sub(cut(10), LENGTH.sub(cut(most), code.replace("20_000", "1500"))))


def unprinted(code, output):
    """The numbers that a block says it prints about, and that are not among those that it printed."""
    printed = [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", output.replace(",", ""))]
    said = [float(number) for number in ABOUT.findall(code)]
    return [one for one in said if not any(abs(one - other) <= 0.25 * abs(one) + 0.02 for other in printed)]


def too_slow(code, seconds):
    """Whether a block took far longer than it says: a machine may be a few times slower, and to start takes a while."""
    said = sum(map(int, SECONDS.findall(code)))
    return bool(said) and seconds > 3 * said + 15


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """Variables of a reader who is known to a Hub, which is on this machine."""
    folder = tmp_path_factory.mktemp("hub")
    command = [sys.executable, ROOT / "tests" / "runs" / "hub_double.py", folder]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        hub = {"HF_ENDPOINT": server.stdout.readline().strip(), "HF_HOME": str(folder), "HF_TOKEN": "hf_right"}
        yield os.environ | hub | {"HF_HUB_OFFLINE": "0"}
        server.kill()


@pytest.mark.slow
@pytest.mark.parametrize("document", [d for d in DOCUMENTS if blocks(d, "python")], ids=lambda d: d.name)
def test_python_blocks_run(document, tmp_path, reader):
    """In one folder, in order, each block as a program of its own: as a reader would try them."""
    for number, code in enumerate(blocks(document, "python")):
        named = FILE_NAME.match(code)
        program = tmp_path / (named[1] if named else f"block_{number}.py")
        program.write_text(shortened(code))
        began = perf_counter()
        done = subprocess.run(
            [sys.executable, program],
            cwd=tmp_path,
            env=reader,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        seconds = perf_counter() - began
        assert done.returncode == 0, f"{document.name}, block {number}:\n{code}\n{done.stderr[-3000:]}"
        assert not FULL or unprinted(code, done.stdout) == [], (
            f"{document.name}, block {number}:\n{done.stdout[-3000:]}"
        )
        assert not FULL or not too_slow(code, seconds), f"{document.name}, block {number} took {seconds:.0f} s"


@pytest.mark.slow
@pytest.mark.parametrize(
    "document", [d for d in DOCUMENTS if "agentlib " in "".join(blocks(d, "sh"))], ids=lambda d: d.name
)
def test_shell_lines_run(document, tmp_path, reader):
    """Lines that call `agentlib`, in one folder, in order."""
    for code in blocks(document, "python"):
        if named := FILE_NAME.match(code):
            (tmp_path / named[1]).write_text(code)
    for line in "".join(blocks(document, "sh")).splitlines():
        if not line.startswith("agentlib "):
            continue
        words = shortened(line).split("#")[0].split()[1:]
        words = ["1" if before == "--seeds" else word for before, word in zip(["", *words], words, strict=False)]
        if words[0] == "train" and not {"--steps", "--resume"} & set(words) and not FULL:
            words += ["--steps", "1500" if "--env" in words else "40"]
        if words[0] == "compare":
            words += ["--steps", "1500", "--episodes", "2"] if "--steps" not in words else ["--episodes", "2"]
        began = perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "agentlib", *words],
            cwd=tmp_path,
            env=reader,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}"
        assert not FULL or not too_slow(line, perf_counter() - began), line


EXAMPLES = {
    "act_without_torch.py": ["--steps", "1500", "--episodes", "1"],
    "alarm.py": ["--steps", "1500", "--transitions", "600"],
    "attack_an_agent.py": ["--updates", "20", "--episodes", "1"],
    "backprop_by_hand.py": ["--steps", "50"],
    "bc_from_minari.py": ["--episodes", "4", "--epochs", "2"],
    "dagger_with_sb3_expert.py": ["--steps", "500", "--rounds", "1"],
    "dagger_with_you.py": ["--typist", "--rounds", "2"],
    "diffusion_policy.py": ["--steps", "100", "--episodes", "2"],
    "embed_agent.py": ["--steps", "1500", "--episodes", "1"],
    "few_shot_imitation.py": ["--tasks", "6", "--updates", "20", "--new", "1"],
    "goals_with_her.py": ["--steps", "700"],
    "pretrain_then_imitate.py": [
        *("--frames", "300", "--updates", "5", "--demonstrations", "1", "--cloning", "10", "--episodes", "2"),
    ],
    "rainbow_pixels.py": ["--steps", "1200"],
    "search_settings.py": ["--steps", "1500", "--trials", "2", "--fresh", "1"],
    "serve_over_http.py": ["--steps", "1500", "--requests", "3"],
    "see_shapes.py": ["--pictures", "40", "--updates", "2", "--steps", "1"],
    "train_dqn.py": ["--steps", "800"],
    "train_gpt.py": ["--steps", "5"],
    "translate.py": ["--steps", "5"],
    "fine_tune.py": ["--steps", "5", "--more", "2"],
    "train_ppo.py": ["--steps", "512"],
    "train_sac.py": ["--steps", "1200"],
    "compare_with_sb3.py": ["--steps", "800", "--seeds", "1"],
    "write_your_own_learner.py": ["--updates", "50"],
}


def test_every_example_is_run():
    assert sorted(EXAMPLES) == sorted(path.name for path in (ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_each_block_says_how_long_it_takes(document):
    runs = blocks(document, "python") + [code for code in blocks(document, "sh") if re.search("^agentlib ", code, re.M)]
    assert [code for code in runs if not SECONDS.search(code) and not FILE_NAME.match(code)] == []


def test_each_example_says_how_long_it_takes():
    """Above a minute in its first line, which says why; and how many minutes."""
    number = r"(?:about )?(?:\d+|one|two|three|four|five|ten)\b"
    for name in EXAMPLES:
        text = ast.get_docstring(ast.parse((ROOT / "examples" / name).read_text(encoding="utf-8"))) or ""
        seconds = re.search(r"takes about (\d+) seconds", text)
        assert re.search(rf"\b(?:takes|in)\s{number}(?: to {number})? (?:seconds|minutes)", text), name
        assert (int(seconds[1]) <= 60 if seconds else "minutes" in text.splitlines()[0]) or "terminal" in text, name


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_example_runs(name, tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / name, *EXAMPLES[name]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip(), "an example says what it did"


def test_links_lead_somewhere():
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)]+)\)", document.read_text(encoding="utf-8")):
            path, _, anchor = target.partition("#")
            if not target.startswith("http"):
                place = document.parent / path if path else document
                assert place.exists(), f"{document.name} links to {target}"
                assert not anchor or anchor in anchors(place), f"{document.name} links to {target}"


def anchors(document):
    """Those of the headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


FILES_OF_RUNS = {"config.json", "results.json", "report.html", "agent.safetensors", "agentlib.json"}


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if d.name != "CHANGELOG.md"], ids=lambda d: d.name)
def test_files_and_modules_that_are_named_exist(document):
    """Paths start at the root, the package or the document's folder; a file's name alone is one in the package."""
    text = BLOCK.sub("", document.read_text(encoding="utf-8"))
    names = {path.name for path in (ROOT / "agentlib").rglob("*.py")}
    for path in set(re.findall(r"`([\w/]+\.(?:py|md|json|toml|txt))\b", text)) - FILES_OF_RUNS:
        is_there = any((folder / path).exists() for folder in (ROOT, ROOT / "agentlib", document.parent))
        is_place = any(part.isupper() for part in Path(path).with_suffix("").parts)  # FAMILY/NAME.py
        assert is_there or is_place or path in names, f"{document.name} names {path}"
    for dotted in set(re.findall(r"`(agentlib(?:\.\w+)+)(?!\.?\w)", text)) - FILES_OF_RUNS:
        module, found = "agentlib", agentlib
        for part in dotted.split(".")[1:]:
            module = f"{module}.{part}"
            if not hasattr(found, part):
                importlib.import_module(module)
            found = getattr(found, part)


def test_the_distribution_is_called_by_its_name():
    """`agentlib` on the package index is another project."""
    texts = [*DOCUMENTS, ROOT / "Makefile", *(ROOT / "agentlib").rglob("*.py"), *(ROOT / "examples").rglob("*.py")]
    wrong = re.compile(r"pip install [^`\n]*['\" ]agentlib(?!-rl)|['\"`]agentlib\[")
    assert [path.name for path in texts if wrong.search(path.read_text(encoding="utf-8"))] == []


def rows_of(document, *header):
    """The cells of the table with these first column titles, without backticks."""
    lines = (ROOT / document).read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| " + " | ".join(header)))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().strip("`") for cell in line.strip("|").split("|")])
    return rows


def test_the_readme_has_every_room_and_every_learner():
    rooms = [(row[0], row[1]) for row in rows_of("README.md", "floor", "room")]
    assert rooms == [(str(n), name) for n, level in list(enumerate(FLOORS, 1))[::-1] for name in level]
    table = (ROOT / "README.md").read_text(encoding="utf-8").split("## Try it")[0]
    assert [name for name in LEARNERS if f"`{name}`" not in table] == []


def test_the_picture_of_the_rooms_is_drawn_from_the_code():
    pictures = ROOT / "docs" / "pictures"
    spec = importlib.util.spec_from_file_location("rooms", pictures / "rooms.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    now = (pictures / "rooms.svg").read_text(encoding="utf-8")
    assert now == module.picture(), "imports have changed: run python docs/pictures/rooms.py"


def test_one_run_goes_the_way_that_is_described():
    """The functions of the page are called, and for the first time in this order."""
    described = [(row[2], row[1]) for row in rows_of("docs/architecture.md", "call", "function")]
    called: dict[tuple[str, str], int] = {}

    def note(frame, event, _):
        if event == "call" and frame.f_code.co_filename.startswith(str(ROOT / "agentlib")):
            file = Path(frame.f_code.co_filename).relative_to(ROOT).as_posix()
            called.setdefault((file, frame.f_code.co_qualname), len(called))

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        # Shorter than the preset's run, which is compiled; it stops at the first numbers.
        agentlib.train("dqn", env="CartPole-v1", steps=1300, progress=False, callback=lambda *_: False)
    finally:
        sys.setprofile(before)
    assert [place for place in described if place not in called] == []
    assert sorted(described, key=called.__getitem__) == described
    assert len(described) <= 12


def test_the_types_that_are_described_are_in_their_files():
    for name, file, _ in rows_of("docs/architecture.md", "type", "file"):
        assert re.search(rf"^class {name}\b", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE), name


def test_every_claim_is_judged():
    """Also one that was made of an experiment after it was measured: `python benchmarks/results.py --page NAME`."""
    found = experiments()
    measured = {path.stem: json.loads(path.read_text()) for path in RESULTS.glob("*.json")}
    claimed = {name: [claim["number"] for claim in one["claims"]] for name, one in measured.items() if name in found}
    assert claimed == {name: [claim.number for claim in found[name].claims] for name in claimed}


SAID = [
    ("docs/meta.md", "squared error {:.2f} after one step, {:.2f} after ten",
     "maml_sinusoids_10_shot/loss_after_1 maml_sinusoids_10_shot/loss_after_10"),
    ("docs/meta.md", "{:.2f} of five new signs from one example of each", "prototypical_glyphs/5_way_1_shot"),
    ("docs/self_supervised.md", "about {:.2f} of the test images, {:.2f} more than on the features of an untrained "
     "encoder. SimCLR reaches {:.2f}", "byol_digits/probe byol_digits/above_random simclr_digits/probe"),
    ("docs/generative.md", "squared error of {:.2f} per image where the best linear map leaves {:.2f}",
     "denoising_autoencoder_digits/error denoising_autoencoder_digits/linear"),
    ("docs/memory.md", "about {:.0f} steps, one with memory for all {:.0f}",
     "dqn_without_memory/position_best recurrent_dqn_lstm/best"),
    ("README.md", "{:.1f} times as fast as Stable-Baselines3 once it is compiled, {:.1f} times uncompiled, {:.1f} "
     "times in the first run on a machine, and {:.1f} times as fast as SBX; PPO {:.1f} times",
     "dqn_warm dqn_eager first_run dqn_sbx ppo"),
    ("README.md", "Pong's pixels {:.1f} times, SAC and TD3 on Pendulum {:.1f} and {:.1f} times", "pong sac td3"),
    ("README.md", "ResNet-18 takes as long as plain PyTorch's ({:.1f} times)", "size_resnet18"),
]  # fmt: skip
"""Pages, their words, and the numbers in them: of `docs/results`, and ratios of `docs/benchmarks`."""


def measured(name):
    file, _, number = name.partition("/")
    if number:
        claims = json.loads((RESULTS / f"{file}.json").read_text())["claims"]
        return next(claim["value"] for claim in claims if claim["number"] == number)
    times = json.loads((ROOT / "docs" / "benchmarks" / f"{file}.json").read_text())["times"]
    return float(np.median(np.array(times["theirs"]) / times["ours"]))


@pytest.mark.parametrize(("document", "words", "names"), SAID)
def test_numbers_in_pages_are_those_that_were_measured(document, words, names):
    text = words.format(*map(measured, names.split()))
    assert text in " ".join((ROOT / document).read_text(encoding="utf-8").split()), f"{document} must say: {text}"


@pytest.mark.slow
def test_a_recipe_of_ones_own_leaves_what_the_readme_says(tmp_path):
    [(name, code)] = [(m[1], code) for code in blocks(ROOT / "README.md", "python") if (m := FILE_NAME.match(code))]
    (tmp_path / name).write_text(code)
    line = f"train {name.removesuffix('.py')}:RECIPE --data digits --steps 50 --progress none --out run"
    subprocess.run([sys.executable, "-m", "agentlib", *line.split()], cwd=tmp_path, check=True, timeout=300)
    left = {path.name.partition(".")[0] for path in (tmp_path / "run").iterdir()}
    assert {"config", "agent", "checkpoints", "events", "results", "report", "learning_curve"} <= left


def test_budgets_are_cut_and_results_are_looked_for():
    assert shortened('train("dqn", env="CartPole-v1", steps=50_000)') == 'train("dqn", env="CartPole-v1", steps=1500)'
    assert shortened("agentlib train vae --data digits --steps 2000") == "agentlib train vae --data digits --steps 40"
    assert shortened("updates_for(20_000), episodes=100, steps=10") == "updates_for(1500), episodes=10, steps=10"
    assert shortened('rounds=3, {"epochs": 12, "rollout_round_min_episodes": 1}') == (
        'rounds=2, {"epochs": 2, "rollout_round_min_episodes": 1}'
    )
    block = 'print(agentlib.evaluate(agent, "CartPole-v1"))  # 20 s; the mean return is about 450'
    assert unprinted(block, "mean return 430.5 +/- 10.0") == []
    assert unprinted(block, "mean return 122.0 +/- 10.0") == [450]
    assert too_slow(block, 76.0)
    assert not too_slow(block, 74.0)
    assert not too_slow("print(agent)  # about 500, after 10 steps", 1e6)
