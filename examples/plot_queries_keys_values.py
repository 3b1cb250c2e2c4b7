"""
========================================
Queries, keys and values in scikit-learn
========================================

Attention has three words of its own, and each is something that users of
scikit-learn have in their hands already:

============  ==============================  =========================
attention     in kernel regression            in code
============  ==============================  =========================
key           the features of a training row  ``X`` of ``fit``
value         the target of a training row    ``y`` of ``fit``
query         the features of a new row       ``X`` of ``predict``
score         log kernel of their distance    ``kernel``, ``bandwidth``
weights       softmax of a query's scores     ``attention_weights(X)``
pooled value  weighted mean of the values     ``predict(X)``
============  ==============================  =========================
"""

# %%
# Two kinds of cues
# -----------------
# William James (*The Principles of Psychology*, 1890) told apart two reasons
# why we look at something. A *nonvolitional* cue lies in the thing: in a
# station hall, the flickering screen of an advertisement draws every eye. A
# *volitional* cue lies in the one who looks: whoever is about to miss a train
# finds the departure board.
#
# Keys are the nonvolitional side, there for everyone. The query is the
# volitional side: it says what is wanted now. Attention lets the query decide
# between the keys, and returns the values of those that match.

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.metrics.pairwise import euclidean_distances

from sknw import NadarayaWatsonRegressor
from sknw.plotting import AttentionDisplay, NeighborhoodDisplay

hall = pd.DataFrame(
    {
        "brightness": [1.0, 0.6, 0.3, 0.5],
        "news": [0.1, 1.0, 0.6, 0.2],
        "food": [0.3, 0, 0, 0.9],
    },
    index=["advertisement", "departures", "clock", "bakery"],
)
seconds = pd.Series(
    [2.0, 30.0, 4.0, 90.0], index=hall.index, name="seconds spent"
)

# %%
# Without a query
# ---------------
# A pooling without a query weighs the things by what they are. Here it is a
# softmax of their brightness: the advertisement wins, for everyone and always.

salience = np.exp(5 * hall["brightness"])
salience /= salience.sum()
print(salience.round(2).to_string())
print(f"pooled value: {salience @ seconds:.1f} seconds")

# %%
# With a query
# ------------
# ``fit`` takes keys and values. Each row of ``predict`` is a query in the
# features of the keys: somebody late, somebody hungry, and somebody who waits
# and would take a little of both.

keys = hall[["news", "food"]]
attention = NadarayaWatsonRegressor(bandwidth=0.3).fit(keys, seconds)
people = pd.DataFrame(
    {"news": [1.0, 0.1, 0.5], "food": [0.0, 1.0, 0.5]},
    index=["late", "hungry", "waiting"],
)
weights = pd.DataFrame(
    attention.attention_weights(people), people.index, keys.index
)
print(weights.round(2).to_string())
print(pd.Series(attention.predict(people), people.index).round(1).to_string())

# %%
# The one who waits, seen from above: keys in the plane of their features, the
# query as a star, and the keys that vote, coloured by their values and as
# large as their weights.

_ = NeighborhoodDisplay.from_estimator(
    attention, keys, seconds, people.loc[["waiting"]], top_k=4
).plot()

# %%
# From scores to a prediction
# ---------------------------
# By hand: scores are the logarithm of the kernel, a softmax of each row turns
# them into weights, and the weights average the values.

# (3 queries, 4 keys)
scores = -(euclidean_distances(people, keys) ** 2) / (2 * 0.3**2)
by_hand = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
print(np.allclose(by_hand, weights))
print(np.allclose(by_hand @ seconds, attention.predict(people)))

# %%
# Heat maps
# ---------
# The identity matrix is attention at its sharpest: ten queries, ten keys, and
# each query looks at the key that is equal to it and at nothing else.

_ = AttentionDisplay.from_weights(np.eye(10), key_label="key").plot()

# %%
# It is the limit of a narrow bandwidth when every query is a key. Widening the
# bandwidth lets each look around, until all weights are equal and every query
# gets the plain mean.

X = np.arange(10.0)[:, None]
bandwidths = [0.1, 1.0, 3.0, 100.0]
maps = [
    NadarayaWatsonRegressor(h).fit(X, X[:, 0]).attention_weights(X)
    for h in bandwidths
]
_ = AttentionDisplay.from_weights(
    maps, titles=[f"bandwidth {h:g}" for h in bandwidths], key_label="key"
).plot()

# %%
# Self-attention without oneself
# ------------------------------
# Without an argument, ``attention_weights`` answers for the training rows
# themselves, each of them left out of its own keys: the diagonal is zero. This
# is what the leave-one-out error, and with it every choice of a bandwidth, is
# made of.

model = NadarayaWatsonRegressor(1.0).fit(X, X[:, 0])
AttentionDisplay.from_estimator(model).plot()
print(np.allclose(model.attention_weights() @ X[:, 0], model.predict_loo()))
plt.show()
