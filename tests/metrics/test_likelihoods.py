"""Likelihoods of simple models against trusted implementations."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from agentlib.data import dataset
from agentlib.metrics.likelihoods import independent_bernoulli, linear_reconstruction, probabilistic_pca


def test_probabilistic_pca_is_scikit_learn_s():
    decomposition = pytest.importorskip("sklearn.decomposition")
    model_selection = pytest.importorskip("sklearn.model_selection")
    data = dataset("digits")
    x = data.x.flatten(1).double().numpy()
    train, test = model_selection.train_test_split(x, test_size=0.3, random_state=0, stratify=data.y)
    for k, expected_train, expected_test in ((2, None, -0.22), (10, 17.64, 16.71), (32, None, 33.85)):
        pca = decomposition.PCA(k).fit(train)
        found = [float(probabilistic_pca(torch.tensor(train), torch.tensor(part), k).mean()) for part in (train, test)]
        assert found[0] == pytest.approx(pca.score(train), abs=0.01)  # scikit-learn divides by n - 1
        assert found[1] == pytest.approx(pca.score(test), abs=0.05)
        assert found[1] == pytest.approx(expected_test, abs=0.05)
        if expected_train is not None:
            assert found[0] == pytest.approx(expected_train, abs=0.01)


def test_probabilistic_pca_is_the_likelihood_of_its_gaussian():
    x = torch.randn(300, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x @ torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.5, 0.4, 0.3], dtype=torch.float64)) + 1
    values, vectors = torch.linalg.eigh((x - x.mean(0)).T @ (x - x.mean(0)) / len(x))
    variances = torch.cat([values[:4].mean().expand(4), values[4:]])
    gaussian = MultivariateNormal(x.mean(0), vectors @ variances.diag() @ vectors.T)
    torch.testing.assert_close(probabilistic_pca(x, x, 2), gaussian.log_prob(x))
    with pytest.raises(ValueError, match="has 0 to 5 codes, not 6"):
        probabilistic_pca(x, x, 6)


def test_independent_pixels():
    train = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    test = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    expected = torch.tensor([math.log(3 / 5) + math.log(4 / 5), math.log(2 / 5) + math.log(1 / 5)]).double()
    torch.testing.assert_close(independent_bernoulli(train, test), expected)


def test_linear_reconstruction_without_noise_is_scikit_learn_s():
    decomposition = pytest.importorskip("sklearn.decomposition")
    x = dataset("digits").x
    pca = decomposition.PCA(10).fit(x.flatten(1).numpy())
    expected = pca.inverse_transform(pca.transform(x[:50].flatten(1).numpy()))
    found = linear_reconstruction(x, x[:50], codes=10)
    assert found.shape == (50, 1, 8, 8)
    torch.testing.assert_close(found.flatten(1), torch.tensor(expected).float(), atol=1e-4, rtol=0.0)
    torch.testing.assert_close(linear_reconstruction(x, x[:50]), x[:50], atol=1e-5, rtol=0.0)  # of full rank


def test_linear_reconstruction_of_noise_has_the_least_error():
    """Beside least squares on fresh noisy examples, of full rank and, by its singular values, of rank 2."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    x = torch.randn(200_000, 5, generator=generator, dtype=torch.float64) @ mixing + 2.0
    noisy = x + 0.7 * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    centered = noisy - noisy.mean(0)
    fitted = centered @ torch.linalg.lstsq(centered, x - x.mean(0)).solution
    _, _, right = torch.linalg.svd(fitted, full_matrices=False)
    for codes, expected in ((None, fitted), (2, fitted @ right[:2].T @ right[:2])):
        found = linear_reconstruction(x, noisy, 0.7, codes)
        errors = [float((one - x).square().sum(1).mean()) for one in (found, expected + x.mean(0))]
        assert errors[0] == pytest.approx(errors[1], rel=1e-3)
