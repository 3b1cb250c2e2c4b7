"""
=================================
A table of numbers and categories
=================================

A survey has numbers, categories without an order and categories with one, side
by side. Kernel regression takes such a table as it is: a data frame says by
its dtypes which column is what, and one search finds how much each of them
matters. This page does that on a real survey, puts a step before it in a
:class:`~sklearn.pipeline.Pipeline`, searches its settings by
:class:`~sklearn.model_selection.GridSearchCV`, and compares it with two models
that need an encoding.

The data come with statsmodels: ``pip install statsmodels``.
"""

# %%
# A survey
# --------
# The American National Election Study of 1996: 944 voters placed themselves
# between 1 (extremely liberal) and 7 (extremely conservative). Can it be told
# from their age, the population of their town, how often they watch the news,
# their party, schooling, income and vote? The set codes all of them as
# numbers. What they are is for us to say: three are steps on a scale, one is a
# choice.

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.compose import (
    ColumnTransformer,
    TransformedTargetRegressor,
    make_column_transformer,
)
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.kernel_ridge import KernelRidge
from sklearn.model_selection import GridSearchCV, KFold, cross_validate
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    OneHotEncoder,
    OrdinalEncoder,
    StandardScaler,
)
from statsmodels.datasets import anes96

from sknw import BandwidthSearch, NadarayaWatsonRegressor
from sknw.plotting import AttentionDisplay, FeatureScaleDisplay

PARTIES = ["strong Dem.", "weak Dem.", "near Dem.", "independent"]
PARTIES += ["near Rep.", "weak Rep.", "strong Rep."]


def steps(codes):
    """Codes as an ordered category."""
    return pd.Categorical(codes.astype(int), ordered=True)


survey = anes96.load_pandas().data
X = pd.DataFrame(
    {
        "age": survey["age"],
        "population": survey["popul"],  # thousands
        "TV news": survey["TVnews"],  # days a week
        "party": steps(survey["PID"]).rename_categories(PARTIES),
        "education": steps(survey["educ"]),
        "income": steps(survey["income"]),
        "vote": survey["vote"]
        .map({0: "Clinton", 1: "Dole"})
        .astype("category"),
    }
)
y = survey["selfLR"].rename("self-placement")
print(X.head(3).to_string(index=False))
print(X.dtypes.to_string())

# %%
# One search for all of them
# --------------------------
# No encoder and no scaler: ``categorical_features="from_dtype"`` is the
# default, and a bandwidth is in the units of its own column.

model = NadarayaWatsonRegressor().fit(X, y)


def bandwidths(model, names):
    """Bandwidths of a fitted model as text, with what they are."""
    table = pd.DataFrame(
        {"bandwidth": [f"{h:.3g}" for h in model.bandwidth_]}, index=names
    )
    table["is"] = np.where(model.is_categorical_, "λ", "h")
    table.loc[table.index[model.irrelevant_features_], "finding"] = (
        "irrelevant"
    )
    return table.fillna("").to_string()


print(bandwidths(model, X.columns))

# %%
# For a number it is the width of the window: someone twenty years older still
# counts more than half of what an equal row would. For a category it is λ, the
# factor that a mismatch costs: another vote leaves 4 % of the weight. In an
# ordered category every step costs it once more: the weight of people two
# steps away on the scale of parties is the square of that of their neighbours.
# At ``λ = 0`` only equals would count, as if the table were split; at ``λ =
# 1`` a feature makes no difference.

steps_apart = np.arange(4)
for name in ("party", "education", "income"):
    factor = model.bandwidth_[X.columns.get_loc(name)]
    print(
        f"{name:<10} weight at 0 to 3 steps: "
        f"{np.round(factor**steps_apart, 3)}"
    )

# %%
# A feature that does not help ends at a bandwidth many times its range, where
# all of its values are alike. Without those columns, and with the same
# bandwidths for the others, predictions are the same:

kept = X.drop(columns=X.columns[model.irrelevant_features_])
without = NadarayaWatsonRegressor(
    np.delete(model.bandwidth_, model.irrelevant_features_)
)
difference = without.fit(kept, y).predict(kept) - model.predict(X)
print(f"largest difference {np.abs(difference).max():.0e}")

# %%
# A step before it
# ----------------
# Was the size of the town really irrelevant? It goes from villages to New
# York, in thousands from 0 to 7300, and one width cannot suit both. It can on
# a logarithmic scale. The step changes that column and passes the others on;
# ``set_output`` keeps them a data frame, so that the dtypes arrive. A scaler,
# an imputer or a :class:`~sklearn.decomposition.PCA` would be placed in the
# same way. (One start for each search instead of several is a little rougher,
# and saves time on this page.)

logarithm = ColumnTransformer(
    [
        (
            "log",
            FunctionTransformer(np.log1p, feature_names_out="one-to-one"),
            ["population"],
        )
    ],
    remainder="passthrough",
    verbose_feature_names_out=False,
).set_output(transform="pandas")
bandwidth = BandwidthSearch(n_starts=1)
pipeline = Pipeline(
    [("log", logarithm), ("nw", NadarayaWatsonRegressor(bandwidth))]
).fit(X, y)
fitted = pipeline["nw"]

print(bandwidths(fitted, fitted.feature_names_in_))
print(
    f"leave-one-out error {model.criterion_:.4f}, with the logarithm "
    f"{fitted.criterion_:.4f}"
)

# %%
# :class:`~sknw.plotting.FeatureScaleDisplay` draws how far apart two people
# are for the model, in bandwidths: for a number if they differ by its standard
# deviation, for a category by one step. Income has small steps, but 24 of
# them.

_ = FeatureScaleDisplay.from_estimator(pipeline, X).plot()

# %%
# Who is listened to
# ------------------
# The weights of attention tell where a prediction comes from. Here they are
# summed over the party of the training rows, and averaged over the party of
# the person predicted: one's own has two thirds of the say or more, its
# neighbours most of the rest, and nobody listens to the far end.

members = pd.get_dummies(X["party"]).to_numpy(dtype=float)  # (n, 7)
listens = (
    members.T
    @ fitted.attention_weights()
    @ members
    / members.sum(axis=0)[:, None]
)
display = AttentionDisplay.from_weights(
    listens,
    query_label="party of the person predicted",
    key_label="party of the training rows",
).plot()
display.ax_.set_xticks(range(7), PARTIES, rotation=30, ha="right")
_ = display.ax_.set_yticks(range(7), PARTIES)

# %%
# Some combinations of categories are rare. The figure shows an otherwise
# typical voter of each party and vote; the larger the mark, the more rows the
# prediction rests on. Three strong Democrats would vote for Dole, too few to
# tell. λ says where to borrow: most of the weight comes from strong Democrats
# who would not.

typical = X.iloc[:1].assign(**X.select_dtypes("number").median())
typical = typical.assign(
    education=X["education"].mode(), income=X["income"].mode()
)
voters = {
    vote: pd.concat([typical] * 7)
    .assign(vote=vote, party=PARTIES)
    .astype(X.dtypes)
    for vote in X["vote"].cat.categories
}
# sphinx_gallery_thumbnail_number = 3
print(pd.crosstab(X["party"], X["vote"]).to_string())

_, ax = plt.subplots(layout="constrained")
for (vote, rows), color, marker in zip(
    voters.items(), ("#0072B2", "#D55E00"), "os", strict=True
):
    effective = fitted.effective_neighbors(pipeline[:-1].transform(rows))
    predicted = pipeline.predict(rows)
    ax.plot(range(7), predicted, color=color, linewidth=1)
    ax.scatter(
        range(7),
        predicted,
        4 * effective,
        color=color,
        marker=marker,
        label=vote,
    )
ax.set_xticks(range(7), PARTIES, rotation=30, ha="right")
ax.set(ylabel="predicted self-placement\n(1 liberal, 7 conservative)")
legend = ax.legend(title="vote (size: effective neighbours)")
for handle in legend.legend_handles:
    handle.set_sizes([60])

of_the_three = fitted.attention_weights(
    pipeline[:-1].transform(voters["Dole"][:1])
)[0]
same_party, same_vote = X["party"] == "strong Dem.", X["vote"] == "Dole"
print(
    "weights in the prediction of a strong Democrat who would vote for Dole:"
)
for name, where in (
    ("same party, same vote", same_party & same_vote),
    ("same party, other vote", same_party & ~same_vote),
    ("other party, same vote", ~same_party & same_vote),
    ("neither", ~same_party & ~same_vote),
):
    print(f"{name:<24}{of_the_three[where].sum():.2f}")

# %%
# Settings of the search, searched
# --------------------------------
# A :class:`~sknw.BandwidthSearch` is an estimator's parameter with parameters
# of its own, and nests as they do: ``nw__bandwidth__criterion`` is the
# criterion of the bandwidth of the step ``nw``.

three = KFold(3, shuffle=True, random_state=0)
search = GridSearchCV(
    pipeline, {"nw__bandwidth__criterion": ["loo", "aicc"]}, cv=three
)
search.fit(X, y)
for params, mean in zip(
    search.cv_results_["params"],
    search.cv_results_["mean_test_score"],
    strict=True,
):
    print(f"R² {mean:.4f} with {params}")

# %%
# The two differ by less than the folds do.
#
# Beside other models
# -------------------
# Kernel ridge regression needs numbers: the vote as one-hot columns, the steps
# as positions, all standardised; its two parameters are searched in three
# folds of each training set. Histogram gradient boosting gets the same
# columns, and the size of its trees is searched. For sknw the search is part
# of ``fit``. So all are scored by nested cross-validation, on the same outer
# folds.

ORDERED = ["party", "education", "income"]
positions = OrdinalEncoder(
    categories=[X[name].cat.categories for name in ORDERED]
)
encoded = make_column_transformer(
    (FunctionTransformer(np.log1p), ["population"]),
    (OneHotEncoder(drop="if_binary"), ["vote"]),
    (positions, ORDERED),
    remainder="passthrough",
)
candidates = {
    "sknw": pipeline,
    "one-hot + KernelRidge": TransformedTargetRegressor(
        GridSearchCV(
            make_pipeline(
                encoded, StandardScaler(), KernelRidge(kernel="rbf")
            ),
            {
                "kernelridge__alpha": [0.1, 1.0],
                "kernelridge__gamma": [0.003, 0.01],
            },
            cv=three,
        ),
        transformer=StandardScaler(),
    ),
    "HistGradientBoosting": GridSearchCV(
        make_pipeline(
            encoded, HistGradientBoostingRegressor(learning_rate=0.05)
        ),
        {"histgradientboostingregressor__max_leaf_nodes": [3, 6]},
        cv=three,
    ),
}
folds = KFold(5, shuffle=True, random_state=0)
print(
    f"{'nested cross-validation':<26}{'R²':>6}{'± over folds':>15}"
    f"{'seconds':>10}"
)
scores = {}
for name, candidate in candidates.items():
    result = cross_validate(candidate, X, y, cv=folds)
    scores[name] = result["test_score"]
    seconds = result["fit_time"].sum() + result["score_time"].sum()
    print(
        f"{name:<26}{scores[name].mean():>6.3f}{scores[name].std():>15.3f}"
        f"{seconds:>10.1f}"
    )

# %%
# On this table the three are equal: their differences are a tenth of their
# spread over the folds. What one gets from sknw besides is a model whose
# numbers can be read: which features count, how far a category is from
# another, and who was listened to.

_, ax = plt.subplots(figsize=(6.4, 2.6), layout="constrained")
for place, name in enumerate(scores):
    ax.plot(
        scores[name], [place] * 5, "o", color="#0072B2", markerfacecolor="none"
    )
    ax.plot(
        scores[name].mean(),
        place,
        "|",
        color="#D55E00",
        markersize=24,
        markeredgewidth=3,
    )
ax.set(xlabel="R² of an outer fold (bar: their mean)", ylim=(2.5, -0.5))
ax.set_yticks(range(3), list(scores))
plt.show()
