"""
======================================
Attention pooling inside a torch model
======================================

``sknw.functional.attention_pooling`` is the operation behind the estimators,
on tensors. It is differentiable in queries, keys, values and bandwidth, and
needs memory linear in their numbers, so it can be a layer of any model. Here a
small network learns the space in which neighbours are looked for.
"""

# %%
# A problem that distances get wrong
# ----------------------------------
# The target depends on one angle, twice the sum of four features; four more
# are noise. Two rows may be far apart in all eight and yet have the same
# target.

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.metrics import r2_score
from sklearn.model_selection import train_test_split

from sknw import NadarayaWatsonRegressor
from sknw.functional import attention_pooling
from sknw.plotting import (
    AttentionDisplay,
    LossCurveDisplay,
    RegressionCurveDisplay,
)

rng = np.random.default_rng(0)
X = rng.uniform(-1, 1, size=(1200, 8))
y = np.sin(2 * X[:, :4].sum(axis=1)) + rng.normal(0, 0.1, size=1200)
X_train, X_test, y_train, y_test = train_test_split(
    X, y, test_size=0.5, random_state=0
)

# %%
# A module
# --------
# The layers embed queries and keys alike; attention pools the training targets
# in that space. With ``leave_one_out=True`` the queries are the keys and none
# looks at itself, which makes the training loss an honest one. The bandwidth
# is 1: the network can scale its output.


class LearnedAttention(torch.nn.Module):
    """Kernel attention in a space that a network learns."""

    def __init__(self, n_features, n_components=2, n_hidden=32):
        super().__init__()
        self.embed = torch.nn.Sequential(
            torch.nn.Linear(n_features, n_hidden),
            torch.nn.SiLU(),
            torch.nn.Linear(n_hidden, n_components),
        )

    def forward(self, queries, keys, values):
        """Pool the values of the keys for each query."""
        return attention_pooling(self.embed(queries), self.embed(keys), values)

    def leave_one_out(self, keys, values):
        """Pool for each key the values of all others."""
        embedded = self.embed(keys)
        return attention_pooling(
            embedded, embedded, values, leave_one_out=True
        )


# %%
# Training
# --------
# An ordinary loop: every step predicts all training rows, each from the
# others.

torch.manual_seed(0)
keys, values = torch.from_numpy(X_train), torch.from_numpy(y_train)[:, None]
model = LearnedAttention(n_features=8).double()
optimizer = torch.optim.Adam(model.parameters(), lr=0.02, weight_decay=1e-4)

losses = []
for step in range(120):
    optimizer.zero_grad()
    loss = (model.leave_one_out(keys, values) - values).square().mean()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
    if step % 30 == 0:
        print(f"step {step:3d}  leave-one-out loss {losses[-1]:.4f}")

_ = LossCurveDisplay(
    [losses], best_losses=[min(losses)], names="network"
).plot()

# %%
# Beside a bandwidth per feature
# ------------------------------
# Selected bandwidths switch the four useless features off. But they only
# stretch axes; they cannot find a direction between them.

with torch.no_grad():
    predicted = model(torch.from_numpy(X_test), keys, values)[:, 0].numpy()
by_bandwidths = NadarayaWatsonRegressor().fit(X_train, y_train)
print(
    "R² of one bandwidth per feature: "
    f"{by_bandwidths.score(X_test, y_test):.3f}"
)
print(f"R² of the network:               {r2_score(y_test, predicted):.3f}")

# %%
# What it looks at
# ----------------
# Test rows and keys, both sorted by the angle: the network has found out that
# nothing else counts. The weights in the learned space are those of an
# estimator with bandwidth 1 on embedded rows.

angle_test, angle_train = (
    2 * rows[:, :4].sum(axis=1) for rows in (X_test, X_train)
)
with torch.no_grad():
    embedded_train = model.embed(keys).numpy()
    embedded_test = model.embed(torch.from_numpy(X_test)).numpy()
pooling = NadarayaWatsonRegressor(bandwidth=1.0).fit(embedded_train, y_train)
assert np.allclose(pooling.predict(embedded_test), predicted)

_ = AttentionDisplay.from_weights(
    [
        by_bandwidths.attention_weights(X_test),
        pooling.attention_weights(embedded_test),
    ],
    titles=["bandwidth per feature", "network"],
    query_values=angle_test,
    key_values=angle_train,
    query_label="angle of query",
    key_label="angle of key",
    max_bins=60,
).plot()

# %%
# The predictions along the angle: all other directions are noise.

RegressionCurveDisplay.from_predictions(
    angle_test,
    [by_bandwidths.predict(X_test), predicted],
    y=y_test,
    truth=np.sin(angle_test),
    names=["bandwidth per feature", "network"],
    feature_name="angle 2 (x0 + x1 + x2 + x3)",
).plot(linestyle="none", marker=".", markersize=4)
plt.show()
