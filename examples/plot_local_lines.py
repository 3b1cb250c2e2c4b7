"""
==================
Lines, not means
==================

A locally weighted mean is biased where rows lie on one side only. A local line
is not, and its slope is the effect of the feature. This page shows both on
stopping distances of cars (Ezekiel 1930; ``cars`` in R).
"""

# %%
# Speed and stopping distance
# ---------------------------
# Fifty cars of the 1920s: speed in miles per hour, distance in feet. Each fit
# has the bandwidth that predicts left-out cars best. A mean is biased wherever
# the data rise, so it needs a narrow window, and then it follows the noise. A
# line is not, so its window may be three times as wide.

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from sknw import NadarayaWatsonRegressor
from sknw.plotting import RegressionCurveDisplay

speed = np.repeat(
    [4, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 22, 23, 24, 25],
    [2, 2, 1, 1, 3, 2, 4, 4, 4, 3, 2, 3, 4, 3, 5, 1, 1, 4, 1],
)
distance = [
    2, 10, 4, 22, 16, 10, 18, 26, 34, 17, 28, 14, 20, 24, 28, 26, 34, 34, 46,
    26, 36, 60, 80, 20, 26, 54, 32, 40, 32, 40, 50, 42, 56, 76, 84, 36, 46,
    68, 32, 48, 52, 56, 64, 66, 54, 70, 92, 93, 120, 85,
]  # fmt: skip
X = pd.DataFrame({"speed": speed})
y = pd.Series(distance, name="distance")
fits = {
    f"degree {degree}": NadarayaWatsonRegressor(degree=degree).fit(X, y)
    for degree in (0, 1, 2)
}
_ = RegressionCurveDisplay.from_estimator(
    list(fits.values()), X, y, names=list(fits)
).plot()

# %%
# Leave-one-out errors and widths of the three:

for name, model in fits.items():
    print(
        f"{name}: bandwidth {model.bandwidth_[0]:5.2f}, "
        f"error {model.criterion_:.0f} ft²"
    )

# %%
# The weights of a prediction
# ---------------------------
# Both are weighted sums of the distances. At the end of the data a line gives
# far cars negative weights: that is what takes the bias out.

query = pd.DataFrame({"speed": [24]})
fig, ax = plt.subplots(figsize=(7, 4), layout="constrained")
for name, marker in (("degree 0", "o"), ("degree 1", "s")):
    weights = fits[name].attention_weights(query)[0]
    ax.plot(speed, weights, marker, label=name, alpha=0.6)
ax.axhline(0, color="0.5", linewidth=1)
ax.axvline(24, color="0.5", linewidth=1, linestyle=":")
ax.set(xlabel="speed [mph]", ylabel="weight at 24 mph")
_ = ax.legend()

# %%
# The slope
# ---------
# Feet per mile per hour. Physics says that it grows with speed, since the
# distance has a term in its square. The slope of the line shows that; the
# derivative of the mean shows its wiggles, and falls at the ends.

at = pd.DataFrame({"speed": np.linspace(4, 25, 100)})
fig, ax = plt.subplots(figsize=(7, 4), layout="constrained")
for name in ("degree 0", "degree 1"):
    ax.plot(at["speed"], fits[name].gradient(at), label=name)
ax.set(xlabel="speed [mph]", ylabel="slope [ft/mph]")
_ = ax.legend()
plt.show()

# %%
# ``summary`` has the average of it, with degrees of freedom and the rest.

print(fits["degree 1"].summary())
