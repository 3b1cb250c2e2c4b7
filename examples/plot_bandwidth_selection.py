"""
==================================
Choosing a bandwidth, on real data
==================================

The bandwidth is the one setting that matters. Too narrow, and the curve
follows the noise; too wide, and it misses what is there. This page chooses it
for relations in real data: one in which the rules of thumb are too wide, one
in which they are too narrow, and one in which they are right.
"""

# %%
# Two clusters of flowers
# -----------------------
# Sepal width against petal length of 150 irises. There are two clusters with a
# gap between them: short petals belong to one species, long ones to the other
# two.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_diabetes, load_iris
from sklearn.model_selection import GridSearchCV, RepeatedKFold

from sknw import NadarayaWatsonRegressor
from sknw.plotting import (
    BandwidthPathDisplay,
    NeighborhoodDisplay,
    RegressionCurveDisplay,
)

iris = load_iris(as_frame=True).data
X, y = iris[["petal length (cm)"]], iris["sepal width (cm)"]
fits = {
    f"bandwidth {h:g}": NadarayaWatsonRegressor(bandwidth=h).fit(X, y)
    for h in (0.05, 0.4, 2.0)
}
_ = RegressionCurveDisplay.from_estimator(
    list(fits.values()), X, y, names=list(fits)
).plot()

# %%
# Leave-one-out
# -------------
# How would a bandwidth do on new rows? Predict each row from all the others
# and average the squared errors. One call of ``predict_loo`` gives all those
# predictions.


def leave_one_out_error(model, y):
    """Mean squared error of rows, each predicted from the others."""
    return np.mean((model.predict_loo() - y) ** 2)


tried = np.geomspace(0.03, 5, 60)
errors = [
    leave_one_out_error(NadarayaWatsonRegressor(h).fit(X, y), y) for h in tried
]

# %%
# ``bandwidth="loo"``, the default, finds the minimum of that curve: it scans
# the whole range, since there may be several minima, and polishes the best.

selected = NadarayaWatsonRegressor().fit(X, y)
BandwidthPathDisplay(
    tried,
    errors,
    chosen=selected.bandwidth_,
    reached=selected.criterion_,
    feature_names="petal length (cm)",
    criterion_label="leave-one-out mean squared error (cm²)",
).plot()
print(
    f"bandwidth {selected.bandwidth_[0]:.3f} cm, leave-one-out error "
    f"{selected.criterion_:.4f}"
)

# %%
# Rules of thumb
# --------------
# Scott's and Silverman's rules take the spread of x and the number of rows and
# do not look at y. They were made for one smooth bump. Here the gap between
# the clusters inflates the spread, and both come out too wide.


def compared(X, y):
    """Fit by the search and by both rules; print errors, return the models."""
    models = {
        name: NadarayaWatsonRegressor(name).fit(X, y)
        for name in ("loo", "scott", "silverman")
    }
    print(f"{'rule':<12}{'bandwidth':>10}{'leave-one-out error':>22}")
    for name, model in models.items():
        print(
            f"{name:<12}{model.bandwidth_[0]:>10.3f}"
            f"{leave_one_out_error(model, y):>22.4f}"
        )
    return models


models = compared(X, y)

# %%
# The window of one bandwidth, and the rows that vote for a flower with petals
# of 3 cm, in the gap: the few rows at its edges have nearly all the weight.

query = X.iloc[:1].assign(**{"petal length (cm)": 3.0})
_ = NeighborhoodDisplay.from_estimator(selected, X, y, query, top_k=8).plot()

# %%
# A weak relation
# ---------------
# The progression of diabetes over a year against the patient's age, in 442
# patients. Age tells little, and where there is little to follow, a wide
# window is right. Now the rules are too narrow: their curves wave, and bend
# upwards at the end for the sake of a single patient.

diabetes = load_diabetes(as_frame=True, scaled=False)
X, y = (
    diabetes.data[["age"]],
    diabetes.target.rename("progression of diabetes"),
)
models = compared(X, y)
_ = RegressionCurveDisplay.from_estimator(
    [models["loo"], models["scott"]],
    X,
    y,
    names=["leave-one-out", "Scott's rule"],
).plot()

# %%
# Body mass index tells more, and there all three agree. Whether a rule will do
# cannot be known before the search has been done, and the search takes a
# moment only.

X = diabetes.data[["bmi"]]
models = compared(X, y)

# %%
# The kernel hardly matters
# -------------------------
# Each kernel finds its own bandwidth, and then the errors are much alike.
# Bandwidths of different kernels cannot be compared: a compact kernel ends at
# ``u = 1``, where a Gaussian has hardly begun to fall.

print(f"{'kernel':<14}{'bandwidth':>10}{'leave-one-out error':>22}")
for kernel in ("gaussian", "exponential", "epanechnikov", "tricube"):
    model = NadarayaWatsonRegressor(kernel=kernel).fit(X, y)
    print(f"{kernel:<14}{model.bandwidth_[0]:>10.3f}{model.criterion_:>22.1f}")

# %%
# Or by cross-validation
# ----------------------
# Any search of scikit-learn works too. It needs a grid, and a fit for each
# point, fold and repeat. Five folds leave out a fifth of the rows at once, and
# fewer rows ask for a wider bandwidth; a single round of folds would also
# depend much on which rows come together.

search = GridSearchCV(
    NadarayaWatsonRegressor(),
    {"bandwidth": np.geomspace(0.5, 4, 10)},
    scoring="neg_mean_squared_error",
    cv=RepeatedKFold(n_splits=5, n_repeats=2, random_state=0),
)
search.fit(X, y)
print(f"repeated five folds: bandwidth {search.best_params_['bandwidth']:.3f}")
print(f"leave-one-out: bandwidth {models['loo'].bandwidth_[0]:.3f}")
plt.show()
