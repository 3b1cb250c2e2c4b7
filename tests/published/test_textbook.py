"""The textbook model, trained by the textbook's loop, against ParametricNWRegressor.

The chapter on attention pooling of "Dive into Deep Learning" (Zhang, Lipton, Li and Smola 2023)
predicts each of n training rows from the n - 1 others: their inputs are its keys, their outputs
its values, both written out as n x (n - 1) matrices without the diagonal. It adds the losses of all
rows and takes a step of 0.5 per epoch; we average, so our step is n times as long.
"""

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning

from sknw import ParametricNWRegressor
from sknw.datasets import make_attention_curve

N_EPOCHS = 5
LEARNING_RATE = 0.5

# The loss of one row is this factor times its squared error.
LOSS_FACTORS = {"squared error": 1.0, "half squared error": 0.5}

STARTS = list(enumerate([0.3, 0.7, 1.0]))  # a seed for the data, and w


def without_diagonal(x):
    """Row i holds x (n,) but for its i-th value; (n, n - 1)."""
    n = len(x)
    return x.expand(n, n)[~torch.eye(n, dtype=torch.bool)].reshape(n, n - 1)


def attend(queries, keys, w):
    """Attention weights (m, p) of queries (m,) on their own keys (m, p)."""
    return torch.softmax(-(((queries[:, None] - keys) * w) ** 2) / 2, dim=1)


def pool(alpha, values):
    """Weighted means (m,) of values (m, p) under weights (m, p)."""
    return torch.bmm(alpha[:, None, :], values[:, :, None]).reshape(-1)  # (m, 1, p) @ (m, p, 1)


def textbook_fit(x, y, w_init, loss_factor):
    """The w after the last epoch, and the mean squared error at the start of each epoch."""
    keys, values = without_diagonal(x), without_diagonal(y)
    w = torch.tensor(w_init, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=LEARNING_RATE)
    errors = []
    for _ in range(N_EPOCHS):
        optimizer.zero_grad()
        squared_error = (pool(attend(x, keys, w), values) - y) ** 2
        loss = loss_factor * squared_error
        loss.sum().backward()
        optimizer.step()
        errors.append(squared_error.mean().item())
    return w.detach(), errors


def our_fit(X, y, w_init, loss_factor):
    model = ParametricNWRegressor(
        metric="scalar",
        bandwidth=1.0,
        solver="sgd",
        max_iter=N_EPOCHS,
        learning_rate_init=LEARNING_RATE * loss_factor * len(X),
        w_init=w_init,
    )
    with pytest.warns(ConvergenceWarning):
        return model.fit(X, y)


@pytest.fixture(scope="module", params=LOSS_FACTORS, ids=lambda name: name.replace(" ", "-"))
def loss_factor(request):
    return LOSS_FACTORS[request.param]


@pytest.fixture(scope="module", params=STARTS, ids="seed{0[0]}-w{0[1]}".format)
def trained(request, loss_factor):
    """Our model, the textbook's w and losses, and training and test rows as tensors."""
    seed, w_init = request.param
    X, y, X_test, _ = make_attention_curve(n_samples=50, noise=0.5, random_state=seed)
    x_train, y_train, x_test = (torch.from_numpy(a.reshape(-1)) for a in (X, y, X_test))
    w, errors = textbook_fit(x_train, y_train, w_init, loss_factor)
    return our_fit(X, y, w_init, loss_factor), w, errors, (x_train, y_train, x_test)


def test_losses_are_those_of_the_textbook(trained):
    model, _, errors, _ = trained
    assert len(model.loss_curve_) == N_EPOCHS
    np.testing.assert_allclose(model.loss_curve_, errors, rtol=1e-10)


def test_w_is_that_of_the_textbook(trained):
    model, w, _, _ = trained
    assert float(model.w_) == pytest.approx(w.item(), rel=1e-10)


def test_predictions_are_those_of_the_textbook(trained):
    model, w, _, (x_train, y_train, x_test) = trained
    m, n = len(x_test), len(x_train)
    alpha = attend(x_test, x_train.expand(m, n), w)
    expected = pool(alpha, y_train.expand(m, n))
    np.testing.assert_allclose(model.predict(x_test.numpy()[:, None]), expected, rtol=1e-10)


def test_attention_weights_are_those_of_the_textbook(trained):
    model, w, _, (x_train, _, x_test) = trained
    expected = attend(x_test, x_train.expand(len(x_test), len(x_train)), w).numpy()
    alpha = model.attention_weights(x_test.numpy()[:, None])
    np.testing.assert_allclose(alpha, expected, rtol=1e-10, atol=1e-14)


def test_training_runs_all_epochs_of_the_textbook(trained):
    model, _, _, _ = trained
    assert model.n_iter_ == N_EPOCHS


def test_training_lowers_the_textbook_loss(trained):
    model, _, errors, _ = trained
    assert model.best_loss_ < errors[0]
