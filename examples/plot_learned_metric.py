"""
=================
Learning a metric
=================

Which rows are near? Kernel regression stands and falls with the answer, and
plain Euclidean distance is seldom a good one: features that do not matter, or
that matter together, spoil it. :class:`~sknw.ParametricNWRegressor` learns the
distance from the data, as widths, as a matrix or as a network, by predicting
every training row from all the others. This page looks at what each finds,
uses the learned space as a step before another estimator, and shows how
failure is told.
"""

# %%
# Eight features, two directions
# ------------------------------
# The target depends on the sum of the first two features and on the difference
# of the next two. The last four are noise. Models are scored on new rows
# against the noiseless truth.

import textwrap
import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import clone
from sklearn.datasets import load_diabetes
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.model_selection import KFold, cross_val_score
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sknw import ParametricNWRegressor
from sknw.metrics import MlpMetric
from sknw.plotting import (
    EmbeddingDisplay,
    FeatureScaleDisplay,
    LossCurveDisplay,
)
from sknw.training import Adam

rng = np.random.default_rng(0)
PLANE = (
    np.array([[1, 1, 0, 0, 0, 0, 0, 0], [0, 0, 1, -1, 0, 0, 0, 0]]) / 2**0.5
)


def truth(X):
    """A wave along one direction, a bowl along the other."""
    u, v = PLANE @ X.T
    return np.sin(2 * u) + v**2 / 2


X, X_new = rng.normal(size=(500, 8)), rng.normal(size=(2000, 8))
y = truth(X) + 0.2 * rng.normal(size=500)

models = {
    "7 nearest neighbours": KNeighborsRegressor(7),
    "scalar": ParametricNWRegressor("scalar"),
    "diagonal": ParametricNWRegressor("diagonal"),
    "full": ParametricNWRegressor("full", n_starts=1),
    "full, 2 components": ParametricNWRegressor(
        "full", n_components=2, n_starts=1
    ),
}
for name, model in models.items():
    print(f"{name:<22} R² {model.fit(X, y).score(X_new, truth(X_new)):.3f}")

# %%
# Irrelevant features
# -------------------
# One scale for all features is as helpless as nearest neighbours: in eight
# dimensions everything is far away. One scale for each finds the four that
# count. Of the others it keeps little in two, and nothing in two.

_ = FeatureScaleDisplay.from_estimator(models["diagonal"], X).plot()

# %%
# Low rank
# --------
# Widths stretch axes; they cannot know that only a sum counts. A matrix can.
# Its singular values show how many directions matter, and ``n_components=2``
# learns just as many: a supervised projection, here almost entirely into the
# plane of the truth.

singular_values = np.linalg.svd(models["full"].components_, compute_uv=False)
print(f"singular values of the full matrix: {singular_values.round(2)}")
matrix = models["full, 2 components"].components_
share = np.linalg.norm(matrix @ PLANE.T) ** 2 / np.linalg.norm(matrix) ** 2
print(f"share of the low-rank matrix in the plane of the truth: {share:.3f}")

# %%
# The learned space, in bandwidths: rows one unit apart give each other 61 % of
# the weight that they give themselves. Waves of the target run along one
# direction, the bowl along the other, and the scale is finer where the target
# varies faster.

_ = EmbeddingDisplay.from_estimator(models["full, 2 components"], X, y).plot()

# %%
# Every metric starts where the simpler one ended: a matrix begins at the loss
# of the diagonal one. With two components, it begins at the two most important
# directions of that.

linear = ["diagonal", "full", "full, 2 components"]
_ = LossCurveDisplay.from_estimator(
    [models[name] for name in linear], names=linear
).plot()

# %%
# A step before another estimator
# -------------------------------
# ``transform`` gives the learned space, so the regressor is a supervised
# embedding for whatever comes after it in a pipeline: nearest neighbours, that
# now know what near means, or trees, which would need many splits to follow an
# oblique direction.

followers = {
    "7 nearest neighbours": KNeighborsRegressor(7),
    "gradient boosting": HistGradientBoostingRegressor(random_state=0),
}
print(f"{'R² on new rows':<22}{'features':>10}{'embedding':>11}")
for name, follower in followers.items():
    plain = (
        make_pipeline(StandardScaler(), follower)
        .fit(X, y)
        .score(X_new, truth(X_new))
    )
    step = clone(models["full, 2 components"])
    embedded = (
        make_pipeline(step, follower).fit(X, y).score(X_new, truth(X_new))
    )
    print(f"{name:<22}{plain:>10.3f}{embedded:>11.3f}")

# %%
# It is no free lunch. On the diabetes table (442 patients, ten features) a
# straight plane does well, there is little for a metric to find, and learning
# it costs more than it brings.

table = load_diabetes(return_X_y=True)
folds = KFold(5, shuffle=True, random_state=0)
for name, step in {
    "standardised": StandardScaler(),
    "learned": clone(models["diagonal"]),
}.items():
    scores = cross_val_score(
        make_pipeline(step, KNeighborsRegressor(20)), *table, cv=folds
    )
    print(
        f"diabetes, 20 nearest neighbours, {name:<13} R² {scores.mean():.3f}"
    )

# %%
# A network
# ---------
# Some targets have no directions at all. Here it is the parity of three signs:
# it changes whenever one of the features changes its sign, and a matrix can do
# little about it. ``metric="mlp"`` bends the space; a
# :class:`~sknw.metrics.MlpMetric` has its settings. It is small here, as the
# data are.


def parity(X):
    """Whether an odd number of the first three features is positive."""
    return (X[:, :3] > 0).sum(axis=1) % 2.0


X, X_new = (
    rng.uniform(-1, 1, size=(600, 4)),
    rng.uniform(-1, 1, size=(2000, 4)),
)
y = parity(X) + 0.1 * rng.normal(size=600)

network = ParametricNWRegressor(
    MlpMetric(width=32, hidden=32, n_bins=8, dropout=0.1),
    n_components=2,
    solver=Adam(decay_epochs=30),
    learning_rate_init=0.015,
    early_stopping=True,
    random_state=0,
)
for name, model in {
    "full": ParametricNWRegressor("full", n_starts=1),
    "network": network,
}.items():
    print(
        f"{name:<10} R² {model.fit(X, y).score(X_new, parity(X_new)):.3f}, ",
        end="",
    )
    print(f"leave-one-out loss {model.best_loss_:.3f}")

# %%
# New rows as the network sees them: the eight octants lie in patches of one
# parity. What lies between two patches is near a border, where a sign could go
# either way.

# sphinx_gallery_thumbnail_number = 4
_ = EmbeddingDisplay.from_estimator(network, X_new, parity(X_new)).plot()

# %%
# A network has parameters enough to make its own leave-one-out loss look
# better than it is: each row is left out of the prediction, but not of the
# training. Rows that are held out of both tell the truth. With
# ``early_stopping=True`` they decide when to stop, and whether the network is
# worth it at all; else the simpler metric stays.

_ = LossCurveDisplay(
    [network.loss_curve_, network.validation_curve_],
    names=["leave-one-out, while training", "validation rows"],
    loss_label="mean squared error",
).plot()


# %%
# When it fails
# -------------
# A fit that went wrong says so. A :class:`~sknw.MetricWarning` tells of a
# metric that has collapsed to the mean, because nothing in X tells of y or the
# start was too broad; of one that has saturated on single neighbours, from
# where no gradient leads back; and of one that predicts rows that are left out
# worse than the mean. A :class:`~sklearn.exceptions.ConvergenceWarning` tells
# of training that was cut short.

rng = np.random.default_rng(0)
x, noise = rng.normal(size=(60, 1)), rng.normal(size=60)
attempts = {
    "y is noise": (ParametricNWRegressor(), x, noise),
    "far too sharp a start": (
        ParametricNWRegressor("scalar", w_init=1e4),
        x,
        np.sin(4 * x[:, 0]),
    ),
    "three steps only": (ParametricNWRegressor(max_iter=3), X, y),
}
for name, (model, *data) in attempts.items():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(*data)
    print(f"{name}:")
    for warning in caught:
        text = f"{warning.category.__name__}: {warning.message}"
        print(
            textwrap.fill(
                text, 76, initial_indent="    ", subsequent_indent="        "
            )
        )
plt.show()
