"""Every Python block of the documents runs, and every example with a small budget."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)

SHORTER = [(r"50_?000|20_000", "1500"), (r"episodes=100", "episodes=2")]
"""Long runs are cut; nothing else of a block is changed."""


def blocks(document, language):
    return [code for kind, code in BLOCK.findall(document.read_text(encoding="utf-8")) if kind == language]


def shortened(code):
    for pattern, replacement in SHORTER:
        code = re.sub(pattern, replacement, code)
    return code


@pytest.mark.slow
@pytest.mark.parametrize("document", [d for d in DOCUMENTS if blocks(d, "python")], ids=lambda d: d.name)
def test_python_blocks_run(document, tmp_path):
    """In one folder, in order, each block as a program of its own: as a reader would try them."""
    for number, code in enumerate(blocks(document, "python")):
        program = tmp_path / f"block_{number}.py"
        program.write_text(shortened(code))
        done = subprocess.run(
            [sys.executable, program], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, f"{document.name}, block {number}:\n{code}\n{done.stderr[-3000:]}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "document", [d for d in DOCUMENTS if "agentlib " in "".join(blocks(d, "sh"))], ids=lambda d: d.name
)
def test_shell_lines_run(document, tmp_path):
    """Lines that call `agentlib`, in one folder, in order."""
    for line in "".join(blocks(document, "sh")).splitlines():
        if not line.startswith("agentlib "):
            continue
        words = shortened(line).split("#")[0].split()[1:]
        words = ["1" if before == "--seeds" else word for before, word in zip(["", *words], words, strict=False)]
        if words[0] == "compare":
            words += ["--steps", "1500", "--episodes", "2"] if "--steps" not in words else ["--episodes", "2"]
        done = subprocess.run(
            [sys.executable, "-m", "agentlib", *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}"


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
    "pretrain_then_imitate.py": [
        *("--frames", "300", "--updates", "5", "--demonstrations", "1", "--cloning", "10", "--episodes", "2"),
    ],
    "rainbow_pixels.py": ["--steps", "1200"],
    "train_dqn.py": ["--steps", "800"],
    "compare_with_sb3.py": ["--steps", "800", "--seeds", "1"],
    "write_your_own_learner.py": ["--updates", "50"],
}


def test_every_example_is_run():
    assert sorted(EXAMPLES) == sorted(path.name for path in (ROOT / "examples").glob("*.py"))


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
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (document.parent / target).exists(), f"{document.name} links to {target}"
