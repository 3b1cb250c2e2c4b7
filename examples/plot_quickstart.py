"""
===========================================
Quickstart: from a mean to learnt attention
===========================================

Kernel regression predicts a query by the weighted mean of the training
targets. In the words of attention, the query looks at every training input (a
key) and takes its target (a value) with a weight that falls with the distance
between the two.

The first part fits a curve whose truth is known and draws what the models
attend to. The second tunes them on real data beside two of scikit-learn's own
regressors.
"""

# %%
# A curve whose truth is known
# ----------------------------
# Fifty noisy training rows, and the noiseless truth on a grid of test inputs.
# A fixed bandwidth of 1 is too wide. The default chooses the bandwidth that
# minimises the leave-one-out error, in which each training row is predicted
# from all the others.

import os
import warnings

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import PowerNorm
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_diabetes
from sklearn.dummy import DummyRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.kernel_ridge import KernelRidge
from sklearn.metrics import root_mean_squared_error
from sklearn.model_selection import (
    GridSearchCV,
    KFold,
    LeaveOneOut,
    cross_val_predict,
    cross_validate,
)
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sknw import NadarayaWatsonRegressor, ParametricNWRegressor
from sknw.datasets import make_attention_curve

X, y, X_test, y_test = make_attention_curve(random_state=0)

mean = DummyRegressor().fit(X, y)
wide = NadarayaWatsonRegressor(bandwidth=1.0).fit(X, y)
selected = NadarayaWatsonRegressor().fit(X, y)

# %%
# The parametric model multiplies the distances inside the softmax by a ``w``
# and learns it by descent on the same leave-one-out error, here from the same
# wide weights: bandwidth 1 and ``w = 1``. With a single feature, learning can
# only change the width of the weights, so it must agree with the selected
# bandwidth. The textbook instead takes five long gradient steps from there:
# the first overshoots, and five are too few to come back.

learnt = ParametricNWRegressor(bandwidth=1.0, w_init=1.0).fit(X, y)

textbook = ParametricNWRegressor(
    metric="scalar",
    bandwidth=1.0,
    solver="sgd",
    max_iter=5,
    learning_rate_init=0.5 * len(X),
    w_init=1.0,
)
with warnings.catch_warnings():
    warnings.simplefilter("ignore", ConvergenceWarning)
    textbook.fit(X, y)

# %%
# The width of the weights is the bandwidth divided by ``w``. Errors are root
# mean squared errors, in the units of y.


def width(model):
    """Bandwidth over learnt w, as text."""
    if isinstance(model, DummyRegressor):
        return "-"
    return f"{np.squeeze(model.bandwidth_ / getattr(model, 'w_', 1.0)):.3f}"


def leave_one_out(model):
    """Predict each training row from all the others."""
    if isinstance(model, DummyRegressor):
        return cross_val_predict(model, X, y, cv=LeaveOneOut())
    return model.predict_loo()


models = {
    "mean": mean,
    "Nadaraya-Watson, bandwidth 1": wide,
    "Nadaraya-Watson, selected bandwidth": selected,
    "parametric, learnt w": learnt,
    "parametric, textbook's five steps": textbook,
}

print(
    f"{'Tutorial curve':<36}{'width':>8}{'test RMSE':>12}"
    f"{'leave-one-out RMSE':>21}"
)
for name, model in models.items():
    test = root_mean_squared_error(y_test, model.predict(X_test))
    loo = root_mean_squared_error(y, leave_one_out(model))
    print(f"{name:<36}{width(model):>8}{test:>12.4f}{loo:>21.4f}")

# %%
# The figure: the fits, the loss at each step, and the attention weights of the
# test inputs on the training inputs. Each row of a map is one query, and its
# weights sum to 1.

ORANGE, BLUE, SKY, GREEN = "#D55E00", "#0072B2", "#56B4E9", "#009E73"
FIGURE = os.environ.get("QUICKSTART_FIGURE", "quickstart.png")


def draw_fits(ax):
    """Draw every fit over the data and the truth."""
    x = X_test[:, 0]
    ax.scatter(X[:, 0], y, s=22, color="0.72", label="training data", zorder=1)
    ax.plot(x, y_test, color="black", lw=1.6, ls=(0, (5, 2)), label="truth")
    ax.plot(
        x, mean.predict(X_test), color="0.45", lw=1.4, ls=":", label="mean"
    )
    ax.plot(x, wide.predict(X_test), color=ORANGE, lw=2, label="bandwidth 1")
    ax.plot(
        x,
        textbook.predict(X_test),
        color=GREEN,
        lw=1.2,
        label="textbook's five steps",
    )
    ax.plot(
        x,
        selected.predict(X_test),
        color=SKY,
        lw=4.5,
        label="selected bandwidth",
    )
    ax.plot(x, learnt.predict(X_test), color=BLUE, lw=1.6, label="learnt w")
    ax.set(title="Fits", xlabel="x", ylabel="y", xlim=(0, 5))
    ax.legend(frameon=False, fontsize=9)


def draw_losses(ax):
    """Draw the loss before each step of both trainings, and the last."""
    for name, model, style in (
        ("textbook's five steps", textbook, {"color": GREEN, "marker": "s"}),
        ("learnt w (L-BFGS)", learnt, {"color": BLUE, "marker": "o"}),
    ):
        ax.plot([*model.loss_curve_, model.best_loss_], label=name, **style)
    ax.set(
        title="Loss",
        xlabel="steps taken",
        ylabel="leave-one-out mean squared error",
    )
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(frameon=False, fontsize=9)


def draw_attention(ax, model, title):
    """Draw the attention weights of the test inputs on the training inputs."""
    weights = model.attention_weights(X_test)
    # square root, so that small weights can be told apart
    norm = PowerNorm(0.5, vmin=0, vmax=1)
    ax.set(title=title, xlabel="training input (key)")
    return ax.pcolormesh(
        X[:, 0], X_test[:, 0], weights, norm=norm, cmap="magma_r"
    )


figure = plt.figure(figsize=(12, 8.4), layout="constrained")
top, bottom = figure.subfigures(2, 1)
fits, losses = top.subplots(1, 2, width_ratios=[2, 1])
draw_fits(fits)
draw_losses(losses)
maps = bottom.subplots(1, 3, sharey=True)
maps[0].set_ylabel("test input (query)")
draw_attention(maps[0], wide, "Attention before learning, w = 1")
draw_attention(maps[1], textbook, "after the textbook's five steps")
image = draw_attention(maps[2], learnt, "with learnt w")
ticks = [0, 0.02, 0.1, 0.2, 0.4, 0.6, 0.8, 1]
bottom.colorbar(
    image, ax=maps, ticks=ticks, label="attention weight (each row sums to 1)"
)
figure.savefig(FIGURE, dpi=150)
print(f"\nFigure saved to {os.path.basename(FIGURE)}")

# %%
# Real data
# ---------
# Diabetes progression of 442 patients from ten features. Features are
# standardised, and settings are chosen inside the training folds: the scores
# are those of nested cross-validation, on the same outer folds for all. A
# number is one bandwidth for all features; ``"scott"`` and ``"loo"`` find one
# per feature. The parametric model has nothing to tune. (A straight plane does
# well on this set, and of the four, kernel ridge comes closest to one.)

X, y = load_diabetes(return_X_y=True)
folds = KFold(5, shuffle=True, random_state=0)


def tuned(model, *grids):
    """Standardise, then search the grids of the model's parameters."""
    pipeline = make_pipeline(StandardScaler(), model)
    step = pipeline.steps[-1][0]
    named = [
        {f"{step}__{name}": values for name, values in grid.items()}
        for grid in grids
    ]
    return GridSearchCV(pipeline, named, cv=3)


candidates = {
    "NadarayaWatsonRegressor": tuned(
        NadarayaWatsonRegressor(),
        {"bandwidth": ["loo"]},
        {
            "bandwidth": ["scott", 0.5, 0.7, 1.0, 1.4],
            "kernel": ["gaussian", "exponential"],
        },
    ),
    "ParametricNWRegressor": make_pipeline(
        StandardScaler(), ParametricNWRegressor()
    ),
    "KNeighborsRegressor": tuned(
        KNeighborsRegressor(),
        {
            "n_neighbors": [5, 10, 15, 20, 30, 40],
            "weights": ["uniform", "distance"],
        },
    ),
    "KernelRidge": TransformedTargetRegressor(
        tuned(
            KernelRidge(kernel="rbf"),
            {
                "alpha": [0.01, 0.1, 1.0],
                "gamma": [0.001, 0.003, 0.01, 0.03, 0.1],
            },
        ),
        transformer=StandardScaler(),
    ),
}

print(
    f"\n{'Diabetes, nested cross-validation':<36}{'R²':>8}"
    f"{'± over folds':>16}{'seconds':>10}"
)
for name, candidate in candidates.items():
    scores = cross_validate(candidate, X, y, cv=folds)
    r2, seconds = (
        scores["test_score"],
        scores["fit_time"].sum() + scores["score_time"].sum(),
    )
    print(f"{name:<36}{r2.mean():>8.3f}{r2.std():>16.3f}{seconds:>10.1f}")
