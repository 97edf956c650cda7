"""Trained models on the Hugging Face Hub: one safe file, a card with what it reaches and how to use it, and a film.

Names of files and the card's metadata are those by which the Hub finds, lists and plays models of reinforcement
learning. On the way back a file is read as any other of ours: nothing is unpickled, and no code of it is run.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import agentlib
from agentlib.backbones.files import header, json_from
from agentlib.core.names import one_line, shown
from agentlib.envs.making import make_env
from agentlib.experience.evaluation import Evaluation, evaluate, own_environment
from agentlib.experience.video import record

LOADED_BY = {
    "agent": "from agentlib import Agent\n\nagent = Agent.from_hub({repo})\naction = agent.act(observation)",
    "model": "from agentlib.runs.hub import downloaded\nfrom agentlib.runs.models import load_model\n\n"
    'model, about = load_model(downloaded({repo}, "model.safetensors"))',
    "backbone": "from agentlib.backbones import load_backbone\nfrom agentlib.runs.hub import downloaded\n\n"
    'backbone = load_backbone(downloaded({repo}, "backbone.safetensors"))',
}
"""The lines that load each kind of file."""
CARD = """
# {title}

{subject} of [agentlib](https://pypi.org/project/agentlib-rl/){reached}.

```python
{lines}
```

The file is safetensors with its description as JSON; nothing is unpickled, and no code is downloaded. A `revision=`
with the hash of a commit makes sure that it is the same model each time.

{settings}
"""


def push_agent(
    agent: Any,
    repo_id: str,
    env: str | Callable[..., Any] | None = None,
    episodes: int = 20,
    film: bool = True,
    private: bool = False,
) -> str:
    """The work of `Agent.push_to_hub`."""
    _check(repo_id)
    found, kwargs = None, dict[str, Any]()
    name = env if isinstance(env, str) else ""  # what a function makes has none that is known to all
    if env is None:
        try:
            name, kwargs = own_environment(agent.about)
        except ValueError as error:
            if episodes or film:
                raise ValueError(f"{error} Without one: episodes=0, film=False") from None
    with TemporaryDirectory() as place:
        agent.save(Path(place) / "agent")
        if episodes:
            found = evaluate(agent, env, episodes=episodes)
        if film and name and _is_drawn(name, kwargs):
            record(agent, name, Path(place) / "replay.mp4", env_kwargs=kwargs)
        return _pushed(Path(place), "agent", repo_id, private, agent.about, name, found)


def push_file(path: str | Path, repo_id: str, private: bool = False) -> str:
    """Publishes a file of a model or backbone, with a card; returns the address of the change.

    Args:
        path: the file. Agents are pushed by `Agent.push_to_hub`, which plays them for the card.
        repo_id: such as "me/vae-mnist"; it is made if there is none.
        private: whether a new repository is seen by you alone.

    Raises:
        ImportError, RuntimeError: as `Agent.push_to_hub` has them.
        ValueError: what `described` raises; or the file is an agent, or a name without an owner.
        FileNotFoundError: no such file.
    """
    _check(repo_id)
    path, (kind, about) = Path(path), described(path)
    if kind == "agent":
        raise ValueError(f"{path} is an agent, which is pushed by Agent.load(path).push_to_hub(...)")
    with TemporaryDirectory() as place:
        shutil.copyfile(path, Path(place) / f"{kind}.safetensors")
        return _pushed(Path(place), kind, repo_id, private, about, "", None)


def described(path: str | Path) -> tuple[str, dict[str, Any]]:
    """What a file of ours is, "agent", "model" or "backbone", and its notes; no tensor is read.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is none of these, or it is damaged.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file at {path}")
    try:
        description = json_from(header(Path(path))[0]["agentlib"])
        kind, about = description["file"].removeprefix("agentlib "), dict(description.get("about", {}))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ValueError(f"{path} is no file of agentlib, or it is damaged") from None
    if kind not in LOADED_BY:
        raise ValueError(f"{path} is no agent, model or backbone but {shown(kind)}")
    return kind, about


def downloaded(repo_id: str, filename: str, revision: str | None = None) -> Path:
    """The file of a repository, in the Hub's cache on this machine; it is fetched where it is not there yet.

    Raises:
        ImportError: huggingface_hub is not installed; the message names the extra.
        RuntimeError: the Hub cannot be reached, or has no such file for you; the message says why.
    """
    client = _client()
    with _told(f"{filename} of {shown(repo_id)}"):
        return Path(client.hf_hub_download(repo_id, filename, revision=revision))


def _check(repo_id: str) -> None:
    _client()
    owner, slash, name = repo_id.partition("/")
    if not (owner and slash and name) or "/" in name:
        raise ValueError(f"a repository is owner/name, such as me/dqn-CartPole-v1, not {shown(repo_id)}")


def _client() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise ImportError("the Hub needs huggingface_hub: pip install 'agentlib-rl[hub]'") from None
    return huggingface_hub


@contextmanager
def _told(subject: str) -> Iterator[None]:
    """What the Hub's client raises, which comes from the network or the Hub, as one kind of error.

    It is of several libraries: those of a network that is not there are no OSError.
    """
    try:
        yield
    except Exception as error:
        raise RuntimeError(f"{subject}: {type(error).__name__}: {one_line(error)}") from error


def _is_drawn(env: str, kwargs: Mapping[str, Any]) -> bool:
    world = make_env(env, env_kwargs=dict(kwargs), training=False)
    try:
        return "rgb_array" in world.metadata.get("render_modes", ())
    finally:
        world.close()


def _pushed(
    folder: Path, kind: str, repo_id: str, private: bool, about: Mapping[str, Any], env: str, found: Evaluation | None
) -> str:
    """Uploads the folder with the model's file, when its card and its notes are there, too."""
    files = {"config.json": {"library": f"agentlib {agentlib.__version__}", "kind": kind, **about}}
    if found is not None:
        files["results.json"] = {
            **{"mean_reward": found.mean, "std_reward": found.std, "n_eval_episodes": len(found.returns)},
            **{"interval": list(found.interval), "is_deterministic": True, "seed": found.seed, "env": env},
            "eval_datetime": datetime.now(UTC).isoformat(timespec="seconds"),
        }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(card(kind, repo_id, about, env, found), encoding="utf-8")
    api = _client().HfApi(library_name="agentlib", library_version=agentlib.__version__)
    with _told(f"nothing was published at {shown(repo_id)}"):
        api.create_repo(repo_id, private=private, exist_ok=True)
        message = f"{kind.capitalize()} of agentlib {agentlib.__version__}"
        return str(api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message))


def card(kind: str, repo_id: str, about: Mapping[str, Any], env: str, found: Evaluation | None) -> str:
    """The page of a repository: metadata that the Hub filters by, what the model reaches, and how it is used.

    Args:
        kind: "agent", "model" or "backbone".
        repo_id: such as "me/dqn-CartPole-v1".
        about: notes of the file: how it was trained.
        env: the environment's id; "" for none, and for one that has none.
        found: the evaluation there, if any.
    """
    client = _client()
    data: dict[str, Any] = {"library_name": "agentlib", "tags": ["agentlib"]}
    data["tags"] += [tag for tag in (env, str(about.get("learner", ""))) if tag]
    reached = ""
    if kind == "agent" and (env or found is not None):
        data |= {"pipeline_tag": "reinforcement-learning"}
        data["tags"] += ["reinforcement-learning", "deep-reinforcement-learning"]
    if found is not None:
        reached = f" for `{env}`. With its best actions, in the episodes of `agentlib evaluate`, it reaches a {found}"
        if not env:
            reached = f". In an environment of its author's it reaches, with its best actions, a {found}"
    if found is not None and env:
        task = {"task_type": "reinforcement-learning", "task_name": "reinforcement-learning"}
        result = {"metric_type": "mean_reward", "metric_name": "mean_reward", "metric_value": round(found.mean, 4)}
        where = {"dataset_name": env, "dataset_type": env}
        data |= {"model_name": repo_id.partition("/")[2]}
        data |= {"eval_results": [client.EvalResult(**task, **result, **where, verified=False)]}
    rows = [f"| {name} | `{json.dumps(value)}` |" for name, value in about.items()]
    text = CARD.format(
        title=repo_id.partition("/")[2],
        subject={"agent": "An agent", "model": "A model", "backbone": "A backbone"}[kind],
        reached=reached,
        lines=LOADED_BY[kind].format(repo=json.dumps(repo_id)),
        settings="\n".join(["| trained with | |", "|---|---|", *rows]) if rows else "",
    )
    return f"---\n{client.ModelCardData(**data).to_yaml()}\n---\n{text.rstrip()}\n"
