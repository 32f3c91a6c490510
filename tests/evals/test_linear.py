"""The linear classifiers against scikit-learn, against each other's form and by hand."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge

from limoe.evals.linear import CONSTANT, FLOOR, dual, logistic, primal, ridge


def drawn(pictures, features, classes, seed=0):
    """(x_ND, target_N): classes in order, then at random; each leans towards a direction of its own."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.cat([torch.arange(classes), torch.randint(classes, (pictures - classes,), generator=generator)])
    x = 3 + 2 * torch.randn(pictures, features, generator=generator)
    x[torch.arange(pictures), target % features] += 2
    return x, target


def standardised(x):
    found = x.double().numpy()
    return (found - found.mean(0)) / (found.std(0) + FLOOR)


@pytest.mark.parametrize("pictures, features", [(60, 7), (12, 40), (41, 40)], ids=["primal", "dual", "square"])
@pytest.mark.parametrize("l2", [0.1, 1024.0])
def test_the_ridge_is_scikit_learns(pictures, features, l2):
    x, target = drawn(pictures, features, 5)
    z = np.column_stack([standardised(x), np.full(pictures, CONSTANT)])
    y = np.where(target[:, None].numpy() == np.arange(5), 1.0, -1.0)
    theirs = Ridge(alpha=l2, fit_intercept=False, solver="svd").fit(z, y)
    found = ridge(x, target, 5, l2)
    assert found.weights_CD.dtype == torch.float64
    np.testing.assert_allclose(found.weights_CD.numpy(), theirs.coef_[:, :-1], atol=1e-9)
    np.testing.assert_allclose(found.bias_C.numpy(), CONSTANT * theirs.coef_[:, -1], atol=1e-7)
    np.testing.assert_allclose(found.scores(x).numpy(), theirs.predict(z), atol=1e-7)


@pytest.mark.parametrize("rows, columns", [(30, 8), (8, 30)])
def test_both_forms_of_the_ridge_are_one(rows, columns):
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    y = torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(primal(z, y, 0.5), dual(z, y, 0.5), rtol=1e-9, atol=1e-12)


def test_the_ridge_of_two_pictures_by_hand():
    """Standardised they are (1, -1) and (-1, 1), so that Z'Z = [[2, -2], [-2, 2]] and Z'y = (2, -2): with l2 = 4 the weights of
    the first class are (1/4, -1/4), those of the second their opposite, and no bias."""
    found = ridge(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]), 2, 4.0)
    torch.testing.assert_close(found.weights_CD, torch.tensor([[0.25, -0.25], [-0.25, 0.25]]).double(), rtol=0, atol=1e-4)
    torch.testing.assert_close(found.bias_C, torch.zeros(2).double())
    scores = found.scores(torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.5, 1.0]]))
    torch.testing.assert_close(scores, torch.tensor([[0.5, -0.5], [0.0, 0.0], [-0.25, 0.25]]).double(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("l2", [1e-1, 1e-4])
@pytest.mark.parametrize("chunk", [7, 1000])
def test_the_logistic_regression_is_scikit_learns(l2, chunk):
    x, target = drawn(120, 9, 4)
    theirs = LogisticRegression(C=1 / (l2 * len(x)), tol=1e-10, max_iter=10_000).fit(standardised(x), target.numpy())
    found = logistic(x, target, 4, l2, chunk)
    expected = theirs.predict_log_proba(standardised(x))
    np.testing.assert_allclose(found.scores(x).log_softmax(1).numpy(), expected, atol=1e-4)


def test_where_the_logistic_regression_begins_does_not_matter():
    x, target = drawn(80, 6, 4)
    cold = logistic(x, target, 4, 1e-3, 1000)
    warm = logistic(x, target, 4, 1e-3, 1000, start=logistic(x, target, 4, 1.0, 1000))
    torch.testing.assert_close(warm.weights_CD, cold.weights_CD, rtol=0, atol=1e-5)


def test_a_feature_that_never_varies_is_no_evidence():
    x, target = drawn(20, 3, 2)
    x[:, 1] = 5.0
    for found in (ridge(x, target, 2, 1.0), ridge(x[:2], target[:2], 2, 1.0), logistic(x, target, 2, 1e-2, 1000)):
        torch.testing.assert_close(found.weights_CD[:, 1], torch.zeros(2).double(), rtol=0, atol=1e-9)
