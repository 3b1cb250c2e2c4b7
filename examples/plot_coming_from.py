"""
======================================
Coming from statsmodels, R np and MLKR
======================================

Whoever changes the library wants to see the same numbers first. This page fits
the same regressions with sknw and with three others, side by side:
statsmodels, which runs here; R's np, by numbers that it printed and that
statsmodels keeps in its tests; and metric learning for kernel regression
(MLKR), whose objective takes a few lines of numpy. What each parameter is
called on either side stands in :doc:`Coming from another package
</migration>`.

It needs statsmodels 0.15: ``pip install statsmodels``.
"""

# %%
# One regression, three packages
# ------------------------------
# Sixty rows on which statsmodels compares itself with R
# (``test_continuousdata_lc_cvls`` in its tests of kernel regression). They
# come from a generator of numpy whose numbers never change, so they can be
# drawn again: two features, and a target that is linear in them.

import time
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
from scipy.optimize import minimize
from scipy.special import softmax
from statsmodels.nonparametric.kernel_regression import KernelReg

from sknw import NadarayaWatsonRegressor, ParametricNWRegressor

old = np.random.RandomState(123456)
dice = old.binomial(2, 0.7, size=60)
old.binomial(3, 0.7, size=60)
x1, x2 = old.normal(size=60), old.normal(10, 1, size=60)
old.normal(10, 2, size=60)
X = np.column_stack([x1, x2])
y = 0.3 + 1.2 * x1 + 3.7 * x2 + old.normal(size=60)

# %%
# In R::
#
#     bw <- npregbw(y ~ x1 + x2, regtype = "lc", bwmethod = "cv.ls")
#     fit <- npreg(bw)
#
# The numbers below are what R printed. ``"lc"`` is the locally constant fit,
# ``"cv.ls"`` the leave-one-out error. statsmodels has the same names for them,
# and sknw has them as its defaults.


def timed(function):
    """Result of a call and its seconds."""
    start = time.perf_counter()
    result = function()
    return result, time.perf_counter() - start


def statsmodels_fit(X, y):
    """Locally constant regression, bandwidths by leave-one-out."""
    # 0/0 in marginal effects, which are not used here
    with np.errstate(invalid="ignore"):
        return KernelReg(
            y, X, "c" * X.shape[1], "lc", "cv_ls", rng=np.random.default_rng(0)
        )


def loo_error(bandwidth, X=X, y=y):
    """Mean squared leave-one-out error at a bandwidth, by sknw."""
    return np.mean(
        (y - NadarayaWatsonRegressor(bandwidth).fit(X, y).predict_loo()) ** 2
    )


theirs, ours = statsmodels_fit(X, y), NadarayaWatsonRegressor().fit(X, y)
found = {  # bandwidths and the predictions of the first five rows
    "R np": (
        [0.6163835, 0.1649656],
        [31.49157, 37.29536, 43.72332, 40.58997, 36.80711],
    ),
    "statsmodels": (np.abs(theirs.bw), theirs.fit(X[:5])[0]),
    "sknw": (ours.bandwidth_, ours.predict(X[:5])),
}
print(f"{'':<13}{'bandwidths':>18}{'leave-one-out':>16}   first predictions")
for name, (bandwidth, means) in found.items():
    widths = f"{bandwidth[0]:>10.6f}{bandwidth[1]:>10.6f}"
    means = "".join(f"{mean:>10.5f}" for mean in means[:3])
    print(f"{name:<11}{widths}{loo_error(bandwidth):>16.8f}{means}")

# %%
# statsmodels' simplex stops a little before the flat minimum; to the digits
# that are printed, the bandwidths of R and of sknw are the same. The third
# column is one function, evaluated at the bandwidths of each. What they all
# look for, and where they end:

h1, h2 = np.geomspace(0.2, 2, 30), np.geomspace(0.08, 1, 30)
errors = np.array([[loo_error([a, b]) for a in h1] for b in h2])
_, ax = plt.subplots(layout="constrained")
lines = ax.contour(
    h1, h2, errors, levels=[1.65, 1.75, 2, 2.5, 3, 4, 5], cmap="viridis"
)
for (name, (bandwidth, _)), marker, size, color in zip(
    found.items(),
    "so+",
    (16, 9, 9),
    ("0.55", "#D55E00", "#0072B2"),
    strict=True,
):
    style = {
        "markersize": size,
        "markeredgewidth": 2,
        "markerfacecolor": "none",
    }
    ax.plot(
        *bandwidth, marker, color=color, label=name, linestyle="none", **style
    )
ax.set(
    xscale="log",
    yscale="log",
    xlabel="bandwidth of x1",
    ylabel="bandwidth of x2",
)
ax.set_xticks([0.2, 0.5, 1, 2], ["0.2", "0.5", "1", "2"])
ax.set_yticks([0.1, 0.2, 0.5, 1], ["0.1", "0.2", "0.5", "1"])
ax.minorticks_off()
plt.colorbar(
    lines, ax=ax, label="leave-one-out mean squared error", format="%.2f"
)
_ = ax.legend(framealpha=1)

# %%
# A bandwidth that you have already
# ---------------------------------
# Bandwidths of the Gaussian kernel mean the same everywhere. With R's numbers,
# sknw predicts what R predicted, to the last digit printed:

as_in_r = NadarayaWatsonRegressor(found["R np"][0]).fit(X, y).predict(X[:5])
print(np.abs(as_in_r - found["R np"][1]).max() < 5e-6)

# %%
# A category's λ has two conventions. The default of statsmodels is that of
# Aitchison and Aitken, ``1 − λ'`` for a match and ``λ'/(c − 1)`` for each of
# the others of c categories. sknw has Li and Racine's, 1 and λ. They give the
# same regression, and ``aitchison_aitken`` translates.

mixed, target = np.column_stack([x1, dice]), y + dice
aitchison = 0.3
lam = aitchison / (1 - aitchison) / (len(np.unique(dice)) - 1)
theirs = KernelReg(
    target, mixed, "cu", "lc", [0.5, aitchison], rng=np.random.default_rng(0)
)
ours = NadarayaWatsonRegressor([0.5, lam], categorical_features=[1]).fit(
    mixed, target
)
print(f"λ {lam:.4f}; as statsmodels has it {ours.aitchison_aitken()[1]:.4f}")
difference = np.abs(theirs.fit(mixed)[0] - ours.predict(mixed)).max()
print(f"largest difference of 60 predictions: {difference:.0e}")

# %%
# Seconds of the search
# ---------------------
# The search for two bandwidths, on this machine while this page was built.
# statsmodels visits all pairs in Python at each step of a simplex; sknw has
# compiled sums and their gradient. (R does not run here.) The :doc:`benchmarks
# </benchmarks>` have larger sizes.


def waves(n):
    """Rows of a problem of any size."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 2))
    return X, np.sin(2 * X[:, 0]) + X[:, 1] + 0.2 * rng.normal(size=n)


# compiled loops are loaded at their first use
NadarayaWatsonRegressor().fit(*waves(500))
searches = {  # sizes, and how often: the quickest counts
    "statsmodels": (statsmodels_fit, (50, 100, 200), 1),
    "sknw": (NadarayaWatsonRegressor().fit, (50, 100, 200, 800, 3000), 2),
}
_, ax = plt.subplots(layout="constrained")
for (name, (fit, sizes, rounds)), color, marker in zip(
    searches.items(), ("#D55E00", "#0072B2"), "so", strict=True
):
    seconds = [
        min(timed(partial(fit, *waves(n)))[1] for _ in range(rounds))
        for n in sizes
    ]
    ax.plot(sizes, seconds, marker=marker, color=color, label=name)
    print(name, dict(zip(sizes, np.round(seconds, 2).tolist(), strict=True)))
ax.set(
    xscale="log", yscale="log", xlabel="rows", ylabel="seconds of the search"
)
_ = ax.legend()

# %%
# MLKR
# ----
# Weinberger and Tesauro (2007) learn a matrix A for the weights ``exp(−‖A(x −
# x_i)‖²)``, by the sum of squared leave-one-out errors. metric-learn's
# ``MLKR`` does not run with a current scikit-learn, so here is its objective
# with its gradient, minimised as it does it, by L-BFGS from the principal
# axes.


def mlkr_objective(A, X, y):
    """Sum of squared leave-one-out errors, and its gradient in A."""
    Z = X @ A.reshape(-1, X.shape[1]).T
    scores = -np.square(Z[:, None] - Z).sum(axis=-1)  # (n, n)
    np.fill_diagonal(scores, -np.inf)
    weights = softmax(scores, axis=1)
    predicted = weights @ y
    errors = predicted - y
    pull = weights * errors[:, None] * (y - predicted[:, None])
    sums = (pull.sum(axis=0) + pull.sum(axis=1))[:, None]
    return errors @ errors, -4 * (
        (sums * Z - (pull + pull.T) @ Z).T @ X
    ).ravel()


def mlkr(X, y):
    """Matrix A at a minimum of the objective."""
    start = np.linalg.svd(X - X.mean(axis=0), full_matrices=False)[2]
    return minimize(
        mlkr_objective, start.ravel(), (X, y), jac=True, method="L-BFGS-B"
    ).x


# %%
# Targets along two oblique directions of six features, three times. The metric
# ``"full"`` of :class:`~sknw.ParametricNWRegressor` minimises the mean instead
# of the sum, and its kernel has a ½ in the exponent: its matrix is ``√2 A``.


def oblique(seed, n=300):
    """Rows, a target that varies along two directions, and those."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 6))
    plane = np.linalg.qr(rng.normal(size=(6, 2)))[0]
    along = X @ plane
    y = (
        np.sin(2 * along[:, 0])
        + 0.5 * along[:, 1] ** 2
        + 0.2 * rng.normal(size=n)
    )
    return X, y, plane


print(f"{'':<6}{'loss':^24}{'seconds':^16}{'in the plane':^16}")
print(
    f"{'seed':<6}{'MLKR':>12}{'sknw':>12}{'MLKR':>8}{'sknw':>8}{'MLKR':>8}"
    f"{'sknw':>8}"
)
for seed in range(3):
    X, y, plane = oblique(seed)
    A, seconds_mlkr = timed(partial(mlkr, X, y))
    model = ParametricNWRegressor("full", n_starts=1)
    _, seconds_sknw = timed(partial(model.fit, X, y))
    matrices = A.reshape(6, 6), model.components_ / 2**0.5
    losses = "".join(
        f"{mlkr_objective(B.ravel(), X, y)[0] / len(y):>12.6f}"
        for B in matrices
    )
    shares = "".join(
        f"{np.linalg.norm(B @ plane) ** 2 / np.linalg.norm(B) ** 2:>8.3f}"
        for B in matrices
    )
    print(f"{seed:<6}{losses}{seconds_mlkr:>8.2f}{seconds_sknw:>8.2f}{shares}")

# %%
# Both losses are computed by the function above, on either's matrix. The
# objective has several minima: now one, now the other ends in a slightly lower
# one, and both find the plane that the target lies in (the share of the
# squared matrix in it). At a few hundred rows the n × n arrays of numpy are as
# quick. What they cost beyond, in metric-learn 0.7 itself (in an environment
# with scikit-learn 1.5): 18.6 seconds for 2000 rows and 8 features, where sknw
# took 3.8 and its loss was 3 % higher, since that script stops it at
# ``tol=1e-3`` (``python tests/benchmarks/mlkr.py --python PYTHON --repeats
# 1``, 20 November 2026, two cores).
#
# MLKR's matrix can be handed over, times √2. The loss there is the same
# number; what is new is that the estimator predicts, with weights that can be
# looked at.

handed_over = ParametricNWRegressor(
    "full", bandwidth=1.0, w_init=2**0.5 * A.reshape(6, 6), n_starts=1
).fit(X, y)
print(f"{mlkr_objective(A, X, y)[0] / len(y):.10f} by the objective above")
print(f"{handed_over.loss_curve_[0]:.10f} by sknw")
rows = oblique(seed + 100)[0][:3]
print(f"predictions of three new rows: {handed_over.predict(rows).round(3)}")
print(
    "they rest on so many rows each: "
    f"{handed_over.effective_neighbors(rows).round(1)}"
)
plt.show()
