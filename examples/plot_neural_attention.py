"""
Three attentions and their heat maps
====================================

Attention by a fixed bandwidth, by a learned scale, and by a neural embedding.
Each heat map shows, for every test row, how much it attends to each training
row.
"""

import argparse

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from sknw import NadarayaWatsonRegressor, ParametricNWRegressor
from sknw.datasets import make_attention_curve
from sknw.metrics import MlpMetric

parser = argparse.ArgumentParser(
    description="Draw the heat maps of three attentions."
)
parser.add_argument(
    "--output", default="neural_attention.png", help="file to write"
)
output = parser.parse_args().output

X, y, X_test, y_test = make_attention_curve(random_state=0)
network = MlpMetric(width=16, hidden=32, n_bins=8)
attentions = {
    "fixed bandwidth 1": NadarayaWatsonRegressor(1.0),
    "learned scale": ParametricNWRegressor("scalar", bandwidth=1.0),
    "neural": ParametricNWRegressor(
        network, early_stopping=True, max_iter=100, random_state=0
    ),
}
figure, axes = plt.subplots(
    2, len(attentions), figsize=(10, 6), layout="constrained"
)
for (title, model), (above, below) in zip(
    attentions.items(), axes.T, strict=True
):
    model.fit(X, y)
    above.plot(X, y, ".", color="gray")
    above.plot(X_test, y_test, "--", color="black", linewidth=1)
    above.plot(X_test, model.predict(X_test))
    error = ((model.predict(X_test) - y_test) ** 2).mean()
    above.set_title(f"{title}: error {error:.3f}")
    below.imshow(model.attention_weights(X_test), aspect="auto", cmap="Reds")
    below.set(xlabel="training row", ylabel="test row")
    print(f"{title}: error {error:.3f}")
figure.savefig(output, dpi=120)
