"""
================
A million points
================

Every prediction is a mean over all training rows, so a million predictions
from a million rows are 10¹² pairs. They need not be visited one by one. This
page lets ``algorithm="auto"`` find the bandwidth and predict on a million
rows, reads what it did, checks the tolerance that it promises, and measures
what all pairs would have taken.
"""

# %%
# The data
# --------
# A signal that waves ever more slowly, with a narrow line at 3, under noise as
# large as the waves. Rows are dense at the left and get sparse to the right,
# and the last of them lie far apart: for fast methods the remote ones are the
# difficult ones.

import textwrap
import time

import matplotlib.pyplot as plt
import numpy as np

from sknw import NadarayaWatsonRegressor
from sknw.plotting import RegressionCurveDisplay


def signal(X):
    """The truth."""
    x = X[:, 0]
    return np.sin(12 * np.sqrt(x)) + 2 / (1 + ((x - 3) / 0.03) ** 2)


rng = np.random.default_rng(0)
n = 1_000_000
X = rng.gamma(2, 1.5, size=(n, 1))
y = signal(X) + rng.normal(size=n)
print(f"x from {X.min():.4f} to {X.max():.2f}; median {np.median(X):.2f}")

# %%
# Leave-one-out on a million rows
# -------------------------------
# The default finds the bandwidth by leave-one-out, with every row predicted
# from all the others at each step. (Compiled loops are loaded at their first
# use; a fit of a few rows takes that out of the timing.)


def timed(function):
    """Result of a call and its seconds."""
    start = time.perf_counter()
    result = function()
    return result, time.perf_counter() - start


NadarayaWatsonRegressor().fit(X[:5000], y[:5000]).predict(X[:5000])

model, seconds = timed(lambda: NadarayaWatsonRegressor().fit(X, y))
print(
    f"fit {seconds:.1f} s: bandwidth {model.bandwidth_[0]:.4f}, criterion "
    f"{model.criterion_:.4f}"
)
predicted, seconds = timed(lambda: model.predict(X))
again, seconds_again = timed(lambda: model.predict(X))
report = model.sums_report_
print(
    f"a million predictions {seconds:.2f} s, a million more "
    f"{seconds_again:.2f} s"
)

# %%
# The whole curve, and the line from nearby; 2000 of the rows are drawn. From x
# = 12 on rows get so sparse that one width for all is too narrow, and the
# curve ends as the steps of single rows. A :class:`~sknw.NeighborBandwidth`
# would widen there, at the price of visiting all pairs.

_, axes = plt.subplots(2, 1, figsize=(6.4, 6.4), layout="constrained")
near = np.abs(X[:, 0] - 3) < 0.3
for ax, rows in zip(axes, (slice(None), near), strict=True):
    RegressionCurveDisplay.from_estimator(
        model,
        X[rows],
        y[rows],
        truth=signal,
        names="a million rows",
        n_points=2000,
    ).plot(ax)
axes[0].set(ylim=(-5, 6))
_ = axes[1].set(ylim=(-5, 6))

# %%
# What was done
# -------------
# ``algorithm_`` is the choice for as many queries as training rows.
# ``search_report_`` tells what the search looked at, ``sums_report_`` how the
# latest prediction was done: here by non-uniform fast Fourier transforms,
# whose time grows with the rows and not with the pairs. Their error is
# absolute, so it is audited on exact sums; rows where it would be too large
# are done again exactly.

print(f"algorithm_: {model.algorithm_}")
for name, entries in (
    ("search_report_", model.search_report_),
    ("sums_report_", report),
):
    print(name)
    for key, value in entries.items():
        print(f"    {key:<16}{value}")

# %%
# Nothing of the size of a million times a million was built; what would be is
# refused. The rows that single predictions rest on can be counted: thousands
# in the middle, one at the end.

try:
    model.attention_weights(X)
except ValueError as refusal:
    print(textwrap.fill(str(refusal), 76))
order = np.argsort(X[:, 0])
for name, row in (
    ("median", order[n // 2]),
    ("100th from the end", order[-100]),
    ("last", order[-1]),
):
    at = X[row : row + 1]
    print(
        f"{name:<20} x = {at[0, 0]:>5.2f} "
        f"{model.effective_neighbors(at)[0]:>9.1f} neighbours"
    )

# %%
# The tolerance, checked
# ----------------------
# Whatever the algorithm, ``|prediction − exact| ≤ rtol · (max y − min y)`` is
# promised for every query, in the sparse tail and beyond the data too. Here
# are three kinds of queries: 500 random rows, the 100 most remote ones, and
# 100 places beyond the last row, up to hundreds of bandwidths away.
# ``algorithm="dense"`` gives the exact answer for them.

queries = {
    "random rows": X[rng.choice(n, 500, replace=False)],
    "most remote rows": X[order[-100:]],
    "beyond the data": X.max() + np.linspace(0.01, 5, 100)[:, None],
}
exact = NadarayaWatsonRegressor(model.bandwidth_, algorithm="dense").fit(X, y)
exact = {name: exact.predict(rows) for name, rows in queries.items()}

tolerances = [1e-2, 1e-5, 1e-8, 1e-10]
errors = {name: [] for name in queries}
print(
    f"{'rtol':>6}{'fit + predict [s]':>19}{'largest error / range of y':>28}"
    f"{'redone':>8}"
)
for rtol in tolerances:
    loose = NadarayaWatsonRegressor(model.bandwidth_, rtol=rtol)
    everywhere, seconds = timed(lambda model=loose: model.fit(X, y).predict(X))
    redone = loose.sums_report_["rows_redone"]
    for name, rows in queries.items():
        errors[name].append(
            np.abs(loose.predict(rows) - exact[name]).max() / np.ptp(y)
        )
    largest = max(errors[name][-1] for name in queries)
    print(f"{rtol:>6.0e}{seconds:>19.2f}{largest:>28.1e}{redone:>8}")

# %%
# All errors are far below the line that they must not cross (those below 1e-16
# are drawn there). A strict tolerance costs hardly more than a loose one:
# there is little reason to change the default of ``1e-8``.

_, ax = plt.subplots(layout="constrained")
ax.plot(tolerances, tolerances, color="0.55", linestyle="--", label="rtol")
for (name, found), color, marker in zip(
    errors.items(), ("#0072B2", "#D55E00", "#009E73"), "os^", strict=True
):
    ax.plot(
        tolerances,
        np.maximum(found, 1e-16),
        marker=marker,
        color=color,
        label=name,
    )
ax.set(
    xscale="log",
    yscale="log",
    xlabel="rtol",
    ylabel="largest error / range of y",
)
_ = ax.legend()

# %%
# Seconds
# -------
# Fit with a given bandwidth and predict as many rows, beside all pairs by
# compiled loops (up to 20,000 rows the best of three rounds). All pairs are
# measured up to there; beyond, their seconds grow as the square.


def seconds_of(algorithm, size):
    """Seconds of fit and predict on the first rows."""
    fixed = NadarayaWatsonRegressor(model.bandwidth_, algorithm=algorithm)
    rounds = range(3 if size <= 20_000 else 1)
    return min(
        timed(lambda: fixed.fit(X[:size], y[:size]).predict(X[:size]))[1]
        for _ in rounds
    )


few, many = [2000, 6000, 20_000], [2000, 6000, 20_000, 60_000, 200_000, n]
auto = [seconds_of("auto", size) for size in many]
dense = [seconds_of("dense", size) for size in few]
beyond = [dense[-1] * (size / few[-1]) ** 2 for size in many[2:]]
print(
    f"a million rows: {auto[-1]:.2f} s; all pairs would take "
    f"{beyond[-1] / 60:.0f} minutes"
)

_, ax = plt.subplots(layout="constrained")
ax.plot(many, auto, "o-", color="#0072B2", label="auto")
ax.plot(few, dense, "s-", color="#D55E00", label="all pairs")
ax.plot(
    many[2:], beyond, ":", color="#D55E00", label="all pairs, extrapolated"
)
ax.set(
    xscale="log",
    yscale="log",
    xlabel="rows and queries",
    ylabel="seconds of fit and predict",
)
_ = ax.legend()

# %%
# Two features
# ------------
# A million rows in the plane. In more than one feature the search samples the
# rows on which it computes the criterion (their neighbours are always all),
# and takes some 15 seconds. A shortcut: the best bandwidths of n rows shrink
# as ``n^(-1/(d + 4))``, so those of a hundredth of the rows, found in a
# moment, can be scaled.


def waves(X):
    """A truth in the plane."""
    return np.sin(4 * np.hypot(X[:, 0] - 1, X[:, 1])) * np.exp(
        -0.2 * (X**2).sum(axis=1)
    )


plane = rng.normal(size=(n, 2))
heights = waves(plane) + rng.normal(size=n)
few = NadarayaWatsonRegressor().fit(plane[: n // 100], heights[: n // 100])
surface = NadarayaWatsonRegressor(few.bandwidth_ * 0.01 ** (1 / 6))
_, seconds = timed(lambda: surface.fit(plane, heights).predict(plane))
print(
    f"bandwidths {surface.bandwidth.round(3)}; fit and a million predictions "
    f"{seconds:.1f} s"
)
print(f"done by {surface.sums_report_['algorithm']}")

# %%
# The pattern is half as high as the noise, and cannot be seen in the rows. The
# mean over thousands of them shows it. Only at the edges, where even a million
# rows are few, some noise is left.

RegressionCurveDisplay.from_estimator(
    [few, surface],
    plane[:200] * 0.9,
    feature=(0, 1),
    truth=waves,
    names=["10,000 rows", "a million rows"],
    n_points=120,
).plot()
plt.show()
