"""
================================
Attention pooling, step by step
================================

Kernel regression is the simplest model of attention. This page walks from a
plain mean to attention that is learnt, on one small problem, and ends with
four exercises. It follows the order of the chapter on attention pooling in
*Dive into Deep Learning* (Zhang, Lipton, Li and Smola, Cambridge University
Press, 2023), with the estimators and displays of ``sknw``.
"""

# %%
# The data
# --------
# Fifty training rows of ``y = 2 sin(x) + x^0.8 + e``, where the noise ``e`` is
# normal with standard deviation 0.5 and x lies between 0 and 5. The truth
# without noise is known on a grid.

import warnings

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import PowerNorm
from sklearn.dummy import DummyRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import root_mean_squared_error
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures

from sknw import NadarayaWatsonRegressor, ParametricNWRegressor
from sknw.datasets import attention_curve, make_attention_curve
from sknw.plotting import (
    AttentionDisplay,
    LossCurveDisplay,
    RegressionCurveDisplay,
)

X, y, X_test, y_test = make_attention_curve(
    n_samples=50, noise=0.5, random_state=0
)
print(f"{len(X)} training rows, {len(X_test)} test rows")


def test_error(model):
    """Root mean squared error on the test grid, against the truth."""
    return root_mean_squared_error(y_test, model.predict(X_test))


# %%
# Average pooling
# ---------------
# The crudest prediction looks at nothing: every query gets the mean of all
# training targets.

average = DummyRegressor().fit(X, y)
RegressionCurveDisplay.from_estimator(
    average, X, y, truth=attention_curve, names="average pooling"
).plot()
print(f"average pooling: error {test_error(average):.3f}")

# %%
# Nonparametric attention pooling
# -------------------------------
# Nadaraya and Watson proposed in 1964 to let near rows count more. In the
# words of attention, the query x is compared with each key ``x_i``, and the
# values ``y_i`` are averaged with the weights
#
# .. math::
#
#    \alpha(x, x_i) = \operatorname{softmax}_i
#    \left(-\tfrac{1}{2} (x - x_i)^2\right).
#
# That is the Gaussian kernel with bandwidth 1. Nothing is learnt: ``fit`` only
# keeps the rows.

nonparametric = NadarayaWatsonRegressor(bandwidth=1.0).fit(X, y)
RegressionCurveDisplay.from_estimator(
    nonparametric, X, y, truth=attention_curve, names="nonparametric attention"
).plot()
print(f"nonparametric attention: error {test_error(nonparametric):.3f}")

# %%
# The heat map shows the weights: rows are queries, columns keys, and both are
# in ascending order of x. A query looks at the keys around it, but from far
# too wide an angle.

_ = AttentionDisplay.from_estimator(
    nonparametric, X_test, X_train=X, sort_by=0
).plot()

# %%
# Batched products
# ----------------
# Pooling is a matrix product. When each query has keys and values of its own,
# it is a batch of products: for query b, a row of weights (1, n) times a
# column of values (n, 1).

# three queries that each weigh four keys alike
weights = torch.full((3, 1, 4), 0.25)
values = torch.arange(12.0).reshape(3, 4, 1)  # and four values for each
# (3, 1, 4) @ (3, 4, 1) -> (3, 1, 1): three means
print(torch.bmm(weights, values).flatten())

# %%
# With common keys and values the batch collapses to one product, and that is
# the prediction:

attention = nonparametric.attention_weights(X_test)  # (50 queries, 50 keys)
print(np.allclose(attention @ y, nonparametric.predict(X_test)))

# %%
# Leave-one-out keys and values
# -----------------------------
# To learn anything, training rows must be predicted. A row must not look at
# itself, or the best attention would be to copy its own target. So row i gets
# the keys and the values of all *other* rows: two matrices of n rows and n - 1
# columns.


def without_diagonal(row):
    """Return n copies of a row (n,), the i-th without its i-th value."""
    n = len(row)
    return np.tile(row, (n, 1))[~np.eye(n, dtype=bool)].reshape(n, n - 1)


keys, values = without_diagonal(X[:, 0]), without_diagonal(y)
scores = torch.from_numpy(-((X - keys) ** 2) / 2)  # (50, 49)
weights = torch.softmax(scores, dim=1)
pooled = torch.bmm(
    weights[:, None, :], torch.from_numpy(values)[:, :, None]
).flatten()
print(keys.shape, values.shape)

# %%
# The estimators do the same without building the matrices.
# ``attention_weights()`` without queries has a zero diagonal, and
# ``predict_loo`` pools with it.

print(np.allclose(pooled, nonparametric.predict_loo()))
print(
    np.allclose(
        nonparametric.attention_weights() @ y, nonparametric.predict_loo()
    )
)
print(nonparametric.attention_weights().diagonal().max())

# %%
# Parametric attention pooling
# ----------------------------
# Now the distance gets a factor w, and w is learnt:
#
# .. math::
#
#    \alpha(x, x_i) = \operatorname{softmax}_i
#    \left(-\tfrac{1}{2} \left(w (x - x_i)\right)^2\right).
#
# Training takes five steps of gradient descent on the squared leave-one-out
# errors, from ``w = 1``. The chapter adds up the errors of all rows and takes
# a step of 0.5; here the loss is their mean, so the same step is 0.5 times the
# number of rows. (Five steps do not converge, and the estimator says so by a
# warning, which is expected here.)


def five_steps(learning_rate):
    """Train the scalar w by five steps of gradient descent."""
    model = ParametricNWRegressor(
        metric="scalar",
        bandwidth=1.0,
        solver="sgd",
        max_iter=5,
        learning_rate_init=learning_rate * len(X),
        w_init=1.0,
        verbose=1,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(X, y)


parametric = five_steps(0.5)
print(f"w = {parametric.w_:.2f}")

# %%
# The first step overshoots far, and the four that follow are too small to come
# back. A step of 0.1 does better, and the default solver finds the optimum: it
# searches along w until the loss stops falling. ``LossCurveDisplay`` puts all
# three together.

careful = five_steps(0.1)
optimal = ParametricNWRegressor("scalar", bandwidth=1.0, w_init=1.0).fit(X, y)
trained = {
    f"step 0.5, w = {parametric.w_:.1f}": parametric,
    f"step 0.1, w = {careful.w_:.1f}": careful,
    f"L-BFGS, w = {optimal.w_:.1f}": optimal,
}
_ = LossCurveDisplay.from_estimator(
    list(trained.values()), names=list(trained)
).plot()

# %%
# Prediction
# ----------
# The learnt attention follows the data more closely. After the long first step
# it follows the noise as well: the curve is jagged.

display = RegressionCurveDisplay.from_estimator(
    [parametric, optimal],
    X,
    y,
    truth=attention_curve,
    names=["step 0.5", "optimal w"],
).plot()
for name, model in {"no learning, w = 1": nonparametric, **trained}.items():
    print(f"{name:<22} error {test_error(model):.3f}")

# %%
# The sharper heat map
# --------------------
# The region in which weights are large narrows. Colours grow with the square
# root of the weight here, so that the first map can be seen beside the second.

_ = AttentionDisplay.from_weights(
    [
        model.attention_weights(X_test)
        for model in (nonparametric, parametric, optimal)
    ],
    titles=["w = 1", f"w = {parametric.w_:.1f}", f"w = {optimal.w_:.1f}"],
    query_values=X_test[:, 0],
    key_values=X[:, 0],
    query_label="x of query",
    key_label="x of key",
).plot(norm=PowerNorm(0.5))

# %%
# Exercise 1: more data
# ---------------------
# Is the nonparametric model better with more rows? With a fixed bandwidth it
# is not: noise averages out, but the window still blurs the curve, and that
# error stays. If the bandwidth is chosen from the data (the default), the
# window narrows as rows come in, and the error falls.

sizes = [20, 50, 100, 200, 500, 1000]
errors = {"bandwidth 1": [], "selected bandwidth": []}
for n in sizes:
    samples = [
        make_attention_curve(n, random_state=seed)[:2] for seed in range(3)
    ]
    for name, bandwidth in zip(errors, (1.0, "loo"), strict=True):
        fits = [
            NadarayaWatsonRegressor(bandwidth).fit(*sample)
            for sample in samples
        ]
        errors[name].append(np.mean([test_error(fit) for fit in fits]))

_, ax = plt.subplots(layout="constrained")
for (name, values), marker in zip(errors.items(), "os", strict=True):
    ax.loglog(sizes, values, marker=marker, label=name)
ax.set(
    xlabel="training rows", ylabel="error on the test grid (mean of 3 samples)"
)
_ = ax.legend()

# %%
# Exercise 2: what is the learnt w, and why does it sharpen?
# ----------------------------------------------------------
# ``w (x - x_i)`` is a distance in units of ``1/w``: the learnt w is the
# reciprocal of a bandwidth. Selecting the bandwidth by leave-one-out gives the
# same number.

selected = NadarayaWatsonRegressor().fit(X, y)
print(
    f"1 / selected bandwidth: {1 / selected.bandwidth_[0]:.4f}, optimal w: "
    f"{optimal.w_:.4f}"
)

# %%
# The ratio of two weights is ``exp(-w² (a² - b²) / 2)`` for keys at distances
# a and b. It grows without bound in ``|w|``, so all attention ends at the
# nearest key; with ``w = 0`` all keys count alike, which is average pooling.
# The sign of w does not matter. ``effective_neighbors`` tells how many equally
# weighted rows a prediction amounts to.

for w in (0.01, 0.5, 1, 2, 4, 16, 64):
    model = NadarayaWatsonRegressor(bandwidth=1 / w).fit(X, y)
    neighbors = model.effective_neighbors(X_test).mean()
    print(
        f"w = {w:>5}: {neighbors:5.1f} effective neighbours, error "
        f"{test_error(model):.3f}"
    )

# %%
# Exercise 3: a bandwidth for the nonparametric model
# ---------------------------------------------------
# So a nonparametric model with a bandwidth is as sharp as a learnt one,
# without any training. Its leave-one-out error is the same curve that training
# descends on, seen from the other side.

tried = np.geomspace(0.05, 2.0, 40)
models = [NadarayaWatsonRegressor(h).fit(X, y) for h in tried]
loo = [np.mean((model.predict_loo() - y) ** 2) for model in models]
grid = [test_error(model) ** 2 for model in models]

_, ax = plt.subplots(layout="constrained")
ax.semilogx(tried, loo, label="leave-one-out (noise included)")
ax.semilogx(tried, grid, linestyle="--", label="test grid (no noise)")
ax.axvline(
    selected.bandwidth_[0], color="0.55", linestyle=":", label="selected"
)
ax.set(xlabel="bandwidth = 1 / w", ylabel="mean squared error")
_ = ax.legend()

# %%
# Exercise 4: another parametric attention
# ----------------------------------------
# With the features x and x², and one learnt scale for each, the distance
# between two rows is
#
# .. math:: \sqrt{w_1^2 (x - x_i)^2 + w_2^2 (x^2 - x_i^2)^2}.
#
# The second term grows with x: the window need not be equally wide everywhere
# any more. Where it is narrow and where it is wide is learnt. This curve bends
# alike at both ends, so there is next to nothing to gain: the leave-one-out
# loss falls by a hair, and the error against the truth rises.

quadratic = make_pipeline(
    PolynomialFeatures(2, include_bias=False), ParametricNWRegressor()
)
quadratic.fit(X, y)
print(
    f"leave-one-out loss {quadratic[-1].best_loss_:.4f}, with one w "
    f"{optimal.best_loss_:.4f}"
)
print(
    f"test error         {test_error(quadratic):.4f}, with one w "
    f"{test_error(optimal):.4f}"
)

AttentionDisplay.from_estimator(quadratic, X_test, X_train=X, sort_by=0).plot()
plt.show()
