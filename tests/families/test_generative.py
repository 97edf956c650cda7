"""Generative runs from the top: what comes out of them, and what is wrong with some."""

import json
import re
from typing import Any

import pytest
import torch

import agentlib
from agentlib.backbones import MLP, MLPDenoiser
from agentlib.catalog import recipe_of
from agentlib.core.recipe import Problem
from agentlib.data import Dataset
from agentlib.data.toys import shapes
from agentlib.learners import VAEConfig
from agentlib.runs.plan import job_of
from agentlib.runs.result import Result
from agentlib.shell.main import main


def quick(what, data, **settings) -> Any:
    result: Any = agentlib.train(what, data=data, steps=settings.pop("steps", 3), progress=False, **settings)
    assert isinstance(result, Result)
    return result


def generated(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.slow
def test_vae_of_bits(tmp_path):
    result = quick("vae", "digits", steps=60, out=tmp_path / "run")
    measures = result.measures
    assert measures["test/nats"] <= measures["test/negative_elbo"]
    assert measures["test/nats"] < result.references["test/nats"] + 5  # better, or not far from the floor
    assert 24 < result.references["test/nats"] < 26.5  # independent pixels
    assert [path.name for path in result.pictures] == ["samples.png", "reconstructions.png"]
    recorded = json.loads((tmp_path / "run" / "results.json").read_text())
    assert recorded["measures"] == measures
    samples = result.model.sample(4, generator=generated())
    assert samples.shape == (4, 1, 8, 8)
    assert set(samples.unique().tolist()) <= {0.0, 1.0}
    encoder = agentlib.backbones.load_backbone(tmp_path / "run" / "backbone.safetensors")
    assert torch.equal(encoder(samples), result.backbone(samples))


def test_bits_are_drawn_each_time_in_training_and_once_for_the_test():
    """Of pixels that are one half the best model's likelihood is d ln 2, and no bits are remembered."""
    grey = Dataset(torch.full((400, 6), 0.5))
    runs: Any = [
        job_of("vae", Problem(data=grey, seed=seed), likelihood="bernoulli", drawn_bits=True) for seed in (0, 1)
    ]
    source = runs[0].source
    assert source.x.unique().tolist() == [0.5]
    batches = [source.sample().x for _ in range(2)]
    assert all(batch.unique().tolist() == [0.0, 1.0] for batch in batches)
    assert not torch.equal(*batches)
    held_out = [run.judge.splits.test.x for run in runs]
    assert held_out[0].unique().tolist() == [0.0, 1.0]
    assert torch.equal(*held_out), "all runs are judged by the same bits"
    with pytest.raises(ValueError, match="takes numbers as probabilities"):
        job_of("vae", Problem(data=Dataset(torch.full((400, 6), 1.5))), likelihood="bernoulli", drawn_bits=True)
    with pytest.raises(ValueError, match="without a threshold"):
        VAEConfig(drawn_bits=True, likelihood="bernoulli", threshold=0.5)


def test_vae_of_numbers_is_held_against_the_best_linear_model():
    x = torch.randn(400, 6, generator=generated())
    result = quick("vae", Dataset(x), latent_dim=2, eval_every=2)
    assert "2 codes" in next(measure for measure in result.judged if measure.name == "test/nats").whose
    assert {"eval/negative_elbo", "eval/reconstruction_error"} < set(result.metrics)
    assert result.references["test/reconstruction_error"] < float(x.var(0).sum())  # two principal components
    assert "test/nats" not in quick("vae", Dataset(x), latent_dim=6).references


def test_vae_with_an_encoder_of_ones_own():
    encoder = MLP(64, (8,))
    result = quick("vae", "digits", backbone=encoder)
    assert result.backbone is encoder
    assert quick("vae", shapes(300), backbone="cnn", validation=0.1).backbone.feature_dim > 0


def test_gan_by_label(tmp_path):
    result = quick("gan", "digits", out=tmp_path / "run")
    wanted = {"test/nearest_neighbor_accuracy", "test/wasserstein", "test/label_agreement", "test/deviation_ratio"}
    assert set(result.measures) == wanted
    assert set(result.references) == wanted
    assert result.references["test/label_agreement"] > 0.95
    images = result.model.sample(3, torch.tensor([0, 5, 9]), generator=generated())
    assert images.shape == (3, 1, 8, 8)
    assert 0.0 <= float(images.min()) <= float(images.max()) <= 1.0
    assert [path.name for path in result.pictures] == ["samples.png"]


@pytest.mark.parametrize(
    ("what", "settings"),
    [
        ("wgan", {"constraint": "penalty", "batch_size": 32}),
        ("wgan", {"constraint": "spectral", "batch_size": 32, "critic_steps": 1}),
        ("gan", {"batch_size": 32}),
        ("diffusion", {"batch_size": 32, "noise_steps": 10, "net_arch": (16,)}),
    ],
)
@pytest.mark.slow
def test_points_whose_truth_is_known(what, settings, tmp_path):
    result = quick(what, "8gaussians", out=tmp_path / "run", **settings)
    assert {"test/modes", "test/smallest_mode", "test/within_3_deviations", "test/spread"} < set(result.measures)
    assert result.references["test/modes"] == 8
    assert result.references["test/within_3_deviations"] == pytest.approx(0.989, abs=0.003)
    assert result.references["test/spread"] == pytest.approx(1.0, abs=0.03)
    assert [path.name for path in result.pictures] == ["samples.png"]
    assert result.model.sample(7, generator=generated()).shape == (7, 2)


@pytest.mark.slow
def test_diffusion_by_label_and_of_images():
    settings = {"batch_size": 16, "noise_steps": 4, "net_arch": (16,), "conditional": True}
    result = quick("diffusion", "digits", **settings)
    assert "test/label_agreement" in result.measures
    labels = torch.eye(10)[:2]
    assert result.model.sample(2, labels, generator=generated()).shape == (2, 1, 8, 8)
    pictures = quick("diffusion", shapes(120), batch_size=4, noise_steps=2, sample_steps=1, steps=1)
    assert type(pictures.model.denoiser).__name__ == "UNetDenoiser"
    own = MLPDenoiser((1, 8, 8), (8,))
    assert quick("diffusion", "digits", batch_size=16, noise_steps=4, backbone=own).model.sample(1).shape == (
        1,
        1,
        8,
        8,
    )


def test_a_critic_of_ones_own_needs_spectral_norm_where_it_is_the_constraint():
    settings = {"constraint": "spectral", "batch_size": 16, "critic_steps": 1}
    quick("wgan", "two_moons", backbone=MLP(2, (8,), norm="spectral"), **settings)
    with pytest.raises(ValueError, match='a module that is built with norm="spectral"'):
        quick("wgan", "two_moons", backbone=MLP(2, (8,)), **settings)


@pytest.mark.parametrize(
    ("low", "high", "rescaling"),
    [(-1.0, 1.0, "(x + 1) / 2"), (0.0, 255.0, "x / 255"), (0.0, 16.0, "x / 16"), (-2.5, 3.5, "(x + 2.5) / 6")],
)
@pytest.mark.parametrize("what", ["gan", "wgan"])
def test_images_that_a_generator_could_never_make(what, low, high, rescaling):
    x = torch.linspace(low, high, 64).expand(40, 64).reshape(40, 1, 8, 8)
    with pytest.raises(ValueError, match=re.escape(f"makes numbers between 0 and 1: rescale them, {rescaling}") + "$"):
        job_of(what, Problem(data=Dataset(x)))
    job_of(what, Problem(data=Dataset((x - low) / (high - low))))


def test_layers_on_top_of_a_named_backbone():
    encoder = quick("vae", "digits", backbone="cnn", net_arch=(12,)).backbone
    assert encoder.feature_dim == 12


def test_frames_of_four_channels_have_no_picture(tmp_path):
    frames = Dataset(torch.rand(60, 4, 8, 8, generator=generated()))
    assert quick("vae", frames, out=tmp_path / "run").pictures == ()


def test_evaluations_while_training_look_at_no_more_than_2_000_examples():
    x = torch.rand(9_000, 2, generator=generated())
    recipe = recipe_of("vae")
    job = recipe.family.assemble(recipe, Problem(data=Dataset(x), config=VAEConfig(validation=0.4), steps=1))
    seen: list[int] = []
    learner: Any = job.learner
    plain = learner.likelihoods

    def counted(x: torch.Tensor, k: int) -> Any:
        seen.append(len(x))
        return plain(x, k)

    learner.likelihoods = counted
    assert set(job.judge.evaluate()) == {"eval/negative_elbo", "eval/kl", "eval/reconstruction_error"}
    assert sum(seen) == 2_000


@pytest.mark.slow
def test_the_same_seed_gives_the_same_samples():
    models = [quick("wgan", "two_moons", seed=seed, batch_size=16).model for seed in (0, 0, 1)]
    first, again, other = (model.sample(5, generator=generated()) for model in models)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("what", "data", "settings", "message"),
    [
        (
            "vae",
            "digits",
            {"threshold": None},
            "the Bernoulli likelihood is one of zeros and ones, and the data has 0.",
        ),
        ("vae", "digit", {}, "unknown data set 'digit'; close matches: digits"),
        ("vae", None, {}, "vae learns from examples: give data"),
        (
            "gan",
            "swiss_roll",
            {"conditional": True},
            "gan with conditional=True needs a label for each example; the data has no labels",
        ),
        ("diffusion", "diabetes", {"conditional": True}, "targets that are no classes"),
        (
            "diffusion",
            "8gaussians",
            {"backbone": "unet"},
            r"takes images \(C, H, W\), and an example of this data is \(2,\)",
        ),
        ("diffusion", "8gaussians", {"backbone": "lstm"}, "takes backbone auto, mlp, unet, or a module"),
        ("diffusion", "8gaussians", {"schedule": "sigmoid"}, "schedule"),
        ("diffusion", "8gaussians", {"sample_steps": 201}, r"DiffusionConfig\.sample_steps must be between 1 and 200"),
        ("wgan", "digits", {"constraint": "spectral", "backbone": "resnet"}, 'needs backbone="auto", or a module'),
        ("wgan", "8gaussians", {"constraint": "weights"}, "constraint"),
        ("wgan", "8gaussians", {"steps": 0}, "a whole number from 1, not 0"),
    ],
)
def test_runs_that_cannot_be(what, data, settings, message):
    settings = {"steps": 1, **settings}
    with pytest.raises(ValueError, match=message):
        agentlib.train(what, data=data, progress=False, **settings)


def test_a_config_is_taken_literally():
    with pytest.raises(ValueError, match="zeros and ones"):
        agentlib.train(VAEConfig(likelihood="bernoulli"), data="digits", steps=1, progress=False)


@pytest.mark.slow
def test_the_shell_prints_results_and_references(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "vae", "--data", "digits", "--steps", "5", "--progress", "none", "--verbose"]) == 0
    printed = capsys.readouterr().out
    assert "threshold 0.5" in printed
    assert "independent pixels" in printed
    assert "samples.png" in printed
    assert main(["train", "gan", "--data", "swiss_roll", "--conditional", "--steps", "5", "--progress", "none"]) == 1
    assert "needs a label for each example" in capsys.readouterr().err
