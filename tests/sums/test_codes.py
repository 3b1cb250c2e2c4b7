"""Categories as columns of codes: the same sums, tails, gradients and choices as written out."""

import pickle
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import reference
import torch
from designs import pairwise

from sknw import NadarayaWatsonRegressor, ParametricNWRegressor
from sknw.data.features import Features
from sknw.data.observations import Observations
from sknw.kernels import KERNELS
from sknw.kernels.codes import EXACT, Codes
from sknw.sums import PreparedSums, Problem, choose, gradient_by_log_scales
from sknw.sums.evaluators.compiled.driver import disabled
from sknw.sums.evaluators.registry import EVALUATORS
from sknw.sums.monomials import Monomials
from sknw.sums.tails import KeySet, nearest_kernel

FUSED, TORCH = EVALUATORS["fused"], EVALUATORS["torch"]
CAPS = np.array([1.0, 4.0])
NAMES = list(KERNELS)


def points(n, d, dtype=torch.float64, seed=0, spread=1.0):
    """Numbers, then an unordered and an ordered column of codes, (1, n, d + 2)."""
    drawn = np.random.RandomState(seed)
    columns = [
        spread * drawn.normal(size=(n, d)),
        drawn.randint(7, size=n),
        drawn.randint(5, size=n),
    ]
    return torch.tensor(np.column_stack(columns)).to(dtype)[None]


def with_codes(name, scales=(0.8, 0.5)):
    return replace(
        KERNELS[name], codes=Codes.of(CAPS).at(torch.tensor(scales, dtype=torch.float64))
    )


def squares(queries, keys, scales=(0.8, 0.5)):
    """Every squared step and mismatch (m, n, d + 2), in numpy."""
    steps = queries[0].double().numpy()[:, None] - keys[0].double().numpy()[None]
    d = steps.shape[2] - 2
    costs = np.square(scales) * np.minimum(np.abs(steps[..., d:]), CAPS)
    return np.concatenate([steps[..., :d] ** 2, costs], axis=2)


@pytest.mark.parametrize(
    ("name", "d", "dtype"), pairwise(NAMES, [0, 1, 3, 4, 6], [torch.float64, torch.float32])
)
def test_sums_are_those_of_distances_written_out(name, d, dtype):
    queries, keys = points(70, d, dtype, seed=1), points(300, d, dtype)
    columns = torch.tensor(np.random.RandomState(2).uniform(size=(1, 2, 300))).to(dtype)
    kernel, exclude = with_codes(name), torch.arange(70).remainder(3) * 40 - 1
    u = np.sqrt(squares(queries, keys).sum(axis=2))
    usable = np.arange(300) != exclude.numpy()[:, None]
    profile = kernel.profile(torch.tensor(u**2)).numpy()
    expected = (profile * usable) @ columns[0].double().numpy().T
    for evaluator in (FUSED, TORCH):
        if not evaluator.accepts(kernel, dtype, torch.device("cpu")):
            continue
        at = evaluator.points(queries, 2), evaluator.points(keys, 2)
        found = evaluator.sums(kernel, *at, columns, exclude, None)[0].mT
        tol = 1e-11 if dtype == torch.float64 else 2e-4
        if name == "tophat" and dtype == torch.float32:
            continue  # steps at the edge
        np.testing.assert_allclose(found, expected, rtol=tol, atol=tol)


@pytest.mark.parametrize("d", [0, 1, 2, 3, 5])
@pytest.mark.parametrize("name", ["gaussian", "exponential", "biweight"])
@pytest.mark.parametrize("itself", [False, True])
def test_squares_of_codes_are_what_mismatches_cost(name, d, itself):
    keys = points(300, d)
    queries = keys if itself else points(70, d, seed=1)
    kernel, drawn = with_codes(name).derivative(), np.random.RandomState(2)
    left, right = (torch.tensor(drawn.normal(size=(1, 2, len(at[0])))) for at in (queries, keys))
    parts = squares(queries, keys)
    total = parts.sum(axis=2)
    if itself:
        np.fill_diagonal(total, 1.0)
    strengths = kernel.profile(torch.tensor(total)).numpy() * (left[0].mT @ right[0]).numpy()
    if itself:
        np.fill_diagonal(strengths, 0.0)
    expected = np.einsum("mn,mnf->mf", strengths, parts)
    for evaluator in (FUSED, TORCH):
        at = None if itself else evaluator.points(queries, 2), evaluator.points(keys, 2)
        found = evaluator.steps(kernel, *at, left, right, None, None, squared=True)[0]
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
        plain = evaluator.steps(kernel, *at, left, right, None, None)[0]
        assert plain.shape == found.shape
        assert not plain[:, d:].any()
    if name == "gaussian":
        gaussian = with_codes(name)
        at = None if itself else FUSED.points(queries, 2), FUSED.points(keys, 2)
        found = FUSED.moments(gaussian, *at, right, None, None, Monomials.squares(d + 2))[
            0
        ]  # (1 + d, 2, m)
        weights = gaussian.profile(torch.tensor(total)).numpy()
        if itself:
            np.fill_diagonal(weights, 0.0)
        expected = np.einsum("mn,mnf,kn->fkm", weights, parts, right[0].numpy())
        np.testing.assert_allclose(found[1:], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("scales", [(0.8, 0.5), (100.0, 0.5), (100.0, 100.0), (0.0, 100.0)])
@pytest.mark.parametrize("name", ["gaussian", "exponential", "nearest"])
@pytest.mark.parametrize("away", [0.0, 300.0])
def test_tails_are_relative_to_a_key_with_the_fewest_exact_mismatches(name, scales, away, dtype):
    kernel = with_codes("gaussian" if name == "nearest" else name, scales)
    kernel = nearest_kernel(kernel) if name == "nearest" else kernel
    queries, keys = points(40, 2, dtype, seed=1, spread=4), points(400, 2, dtype, spread=4)
    queries[..., 0] += away
    weights = torch.ones(400, dtype=dtype)
    key_set = KeySet(keys[0], weights, kernel.codes)
    parts = squares(queries, keys, scales)
    is_exact = np.array([False, False, *(np.array(scales) > 50)])
    exact = (parts / np.array([1, 1, *np.square(scales)], float).clip(1e-9))[..., is_exact].sum(
        axis=2
    )
    fewest = exact == exact.min(axis=1, keepdims=True)
    u = np.sqrt(parts[..., ~is_exact].sum(axis=2))
    family = "gaussian" if name == "nearest" else name
    expected = np.exp(reference.log_kernel_values(family, u, fewest))
    if name == "nearest":
        expected = (u == np.where(fewest, u, np.inf).min(axis=1, keepdims=True)) & fewest
    expected = reference.normalized(expected.astype(float))
    columns = torch.tensor(np.random.RandomState(2).normal(size=(3, 400))).to(dtype)
    columns[0] = 1
    for tiles in (True, False):
        with disabled() if tiles else torch.no_grad():
            ((_, rows),) = key_set.shifted_groups(
                kernel, queries[0], None, torch.arange(40).repeat(9)[:40]
            )
            found = rows.sums(kernel, columns)
        means = (found[1:] / found[0]).mT
        tol = 1e-9 if dtype == torch.float64 else 2e-3
        np.testing.assert_allclose(
            means, expected @ columns[1:].double().numpy().T, rtol=tol, atol=tol
        )


@pytest.mark.parametrize("algorithm", ["dense", "blocks"])
@pytest.mark.parametrize("name", ["gaussian", "exponential", "triweight"])
@pytest.mark.parametrize("n", [60, 700])
def test_gradients_by_scales_are_those_of_finite_differences(name, n, algorithm):
    keys = points(n, 1, spread=0.5 if name == "triweight" else 3)
    drawn = np.random.RandomState(3)
    columns = torch.tensor(np.stack([drawn.uniform(0.5, 2, n), drawn.normal(size=n)]))[None]
    kernel = replace(KERNELS[name], codes=Codes.of(CAPS))
    at = np.array([3.0, 0.7, 0.3]) if name != "triweight" else np.array([0.5, 0.4, 0.2])

    def run(scales):
        """Return the prepared sums at scales, and their run."""
        scaled, factors = kernel.scaled_by(torch.tensor(scales))
        at_scales = keys * factors
        chosen = choose(
            algorithm,
            Problem.of(
                scaled,
                None,
                at_scales,
                n_columns=2,
                leave_one_out=True,
                needs_grad=True,
                rtol=1e-12,
            ),
        )
        prepared = PreparedSums.of(scaled, at_scales, columns, chosen)
        return prepared, prepared.run(None, None, by_log_scales=True)

    def loss(sums):
        means = sums[0, :, 1] / sums[0, :, 0].clamp_min(1e-290)
        return means.square().mean()

    prepared, ran = run(at)
    sums = ran.sums.sums.clone().requires_grad_()
    (by_sums,) = torch.autograd.grad(loss(sums), sums)
    gradient = gradient_by_log_scales(
        prepared, ran, None, None, by_sums.mT[:, None]
    ) / torch.tensor(at)
    for f in range(3):
        step = np.zeros(3)
        step[f] = 1e-5 * at[f]
        up, down = (loss(run(at + sign * step)[1].sums.sums).item() for sign in (1, -1))
        assert gradient[f].item() == pytest.approx((up - down) / (2 * step[f]), rel=1e-4, abs=1e-7)


# --- estimators ----------------------------------------------------------------------------------


def table(n=400, n_levels=6, seed=0):
    drawn = np.random.RandomState(seed)
    shop, size = drawn.randint(n_levels, size=n), drawn.randint(5, size=n)
    X = pd.DataFrame(
        {
            "shop": pd.Categorical([f"s{k:04d}" for k in shop]),
            "x": drawn.uniform(0, 3, n),
            "size": pd.Categorical(size, categories=range(5), ordered=True),
        }
    )
    y = np.sin(2 * X["x"]) + (shop % 3) + 0.2 * size + 0.1 * drawn.normal(size=n)
    return X, y.to_numpy()


def positions(X):
    return np.column_stack([X["x"], X["shop"].cat.codes, X["size"].cat.codes])


def expected_weights(kernel, queries, X, bandwidth):
    lam_shop, h, lam_size = bandwidth
    u, exact = reference.mixed_distances(
        positions(queries), positions(X), [h], [lam_shop, lam_size], [False, True], [1, 4]
    )
    fewest = exact == exact.min(axis=1, keepdims=True)
    usable = fewest if kernel in reference.INFINITE_SUPPORT else exact == 0
    return reference.normalized(np.exp(reference.log_kernel_values(kernel, u, usable)))


BANDWIDTHS = [[0.3, 0.4, 0.7], [0.0, 0.4, 0.7], [0.0, 0.4, 0.0], [1.0, 0.05, 0.5], [0.2, 1e-3, 1.0]]


@pytest.mark.parametrize("algorithm", ["dense", "blocks"])
@pytest.mark.parametrize("bandwidth", BANDWIDTHS, ids=str)
@pytest.mark.parametrize("kernel", ["gaussian", "exponential", "epanechnikov", "tricube"])
@pytest.mark.filterwarnings("ignore")
def test_estimators_follow_the_distance_written_out(kernel, bandwidth, algorithm):
    X, y = table(900)
    queries = table(150, seed=1)[0]
    queries["shop"] = queries["shop"].cat.set_categories(X["shop"].cat.categories)
    model = NadarayaWatsonRegressor(
        bandwidth, kernel=kernel, algorithm=algorithm, empty_neighborhood="mean"
    ).fit(X, y)
    weights = expected_weights(kernel, queries, X, bandwidth)
    filled = weights.sum(axis=1) > 0
    found, attention = model.predict(queries), model.attention_weights(queries)
    np.testing.assert_allclose(found[filled], (weights @ y)[filled], rtol=1e-9)
    np.testing.assert_allclose(attention[filled], weights[filled], atol=1e-10)
    neighbors = np.array([reference.kish(row) for row in weights])
    np.testing.assert_allclose(model.effective_neighbors(queries), neighbors, rtol=1e-7)


def test_the_criterion_is_that_of_the_distance_written_out():
    X, y = table(300)
    model = NadarayaWatsonRegressor().fit(X, y)
    u, _ = reference.mixed_distances(
        positions(X),
        positions(X),
        model.bandwidth_[[1]],
        model.bandwidth_[[0, 2]],
        [False, True],
        [1, 4],
    )
    weights = reference.normalized(np.exp(-0.5 * u**2) * (1 - np.eye(300)))
    assert model.criterion_ == pytest.approx(np.mean((weights @ y - y) ** 2), rel=1e-9)
    np.testing.assert_allclose(model.predict_loo(), weights @ y, rtol=1e-9)


@pytest.mark.parametrize("metric", ["scalar", "diagonal"])
def test_coordinates_of_an_embedding_have_the_same_distances(metric):
    X, y = table(120)
    model = ParametricNWRegressor(metric, max_iter=40, n_starts=1, tol=1e-4).fit(X, y)
    Z = model.transform(X)
    assert Z.shape == (120, 6 + 1 + 4)
    assert len(model.get_feature_names_out()) == Z.shape[1]
    u = np.sqrt(np.square(Z[:, None] - Z[None]).sum(axis=2))
    weights = reference.weights("gaussian", Z, Z, 1.0)
    np.testing.assert_allclose(model.attention_weights(X), weights, atol=1e-10)
    assert u.max() > 0
    blocks = Features.of(X, "from_dtype").expanded()
    columns = blocks.columns(X, X[["x"]].to_numpy())
    np.testing.assert_allclose(Z, columns @ model.components_.T, atol=1e-12)


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("solver", ["lbfgs", "adam", "sgd"])
@pytest.mark.filterwarnings("ignore")
def test_every_solver_learns_the_scale_of_codes(solver, early_stopping):
    X, y = table(150)
    model = ParametricNWRegressor(
        solver=solver,
        max_iter=60,
        tol=1e-3,
        early_stopping=early_stopping,
        n_starts=1,
        random_state=0,
    )
    model.fit(X, y)
    assert model.score(X, y) > 0.8
    errors = np.mean((model.predict_loo() - y) ** 2)
    assert model.best_loss_ == pytest.approx(errors, rel=1e-6)


@pytest.mark.parametrize("is_missing", [False, True])
def test_spreads_and_ranges_of_codes_are_those_of_their_blocks(is_missing):
    X, y = table(300)
    if is_missing:
        X.loc[::7, "shop"] = None
    coded = Features.of(X, "from_dtype")
    w = np.random.RandomState(4).uniform(0.5, 2, 300)
    numbers = X[["x"]].to_numpy()
    either = [
        Observations.of(features.columns(X, numbers), y[:, None], w, features)
        for features in (coded, coded.expanded())
    ]
    for name in ("deviation", "range", "smallest_gap"):
        of_codes, of_blocks = (getattr(observations.extent, name) for observations in either)
        np.testing.assert_allclose(of_codes, of_blocks, rtol=1e-9)


def test_nine_hundred_levels_are_one_column():
    X, y = table(2000, n_levels=900)
    model = NadarayaWatsonRegressor([0.05, 0.2, 0.6]).fit(X, y)
    weights = expected_weights("gaussian", X.head(50), X, [0.05, 0.2, 0.6])
    np.testing.assert_allclose(model.predict(X.head(50)), weights @ y, rtol=1e-10)
    assert len(pickle.dumps(model)) < 2000 * 12 * 8 + 900 * 40


# --- an exact match ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernel", "distance", "algorithm", "dtype"),
    pairwise(NAMES, [1e2, 1e5, 1e9, 1e30], ["auto", "dense", "blocks"], [np.float64, np.float32]),
)
@pytest.mark.filterwarnings("ignore")
def test_a_row_of_the_same_category_wins_at_any_distance(kernel, distance, algorithm, dtype):
    if dtype == np.float32 and distance > 1e10:
        distance = 1e10
    hours = np.array([0.0, 1, 2, distance, 1.25 * distance, 1.5 * distance])
    X = pd.DataFrame({"hour": hours.astype(dtype), "st": list("aaabbb")})
    y = [1.0, 1, 1, 9, 9, 9]
    model = NadarayaWatsonRegressor([1.0, 0.0], kernel=kernel, algorithm=algorithm).fit(X, y)
    queries = pd.DataFrame({"hour": np.array([distance, 1.0], dtype=dtype), "st": list("ab")})
    np.testing.assert_array_equal(model.predict(queries), np.array([1.0, 9.0], dtype=dtype))
    weights = model.attention_weights(queries)
    np.testing.assert_allclose(weights[0, :3].sum(), 1, rtol=1e-6)
    np.testing.assert_array_equal(weights[[0, 0, 0, 1, 1, 1], [3, 4, 5, 0, 1, 2]], 0)
    np.testing.assert_allclose(model.predict_loo(), y, rtol=1e-6)


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_fewest_exact_mismatches_come_before_the_distance(ordered):
    levels = pd.CategoricalDtype(["a", "b", "c", "d"], ordered=ordered)
    X = pd.DataFrame(
        {
            "x": [0.0, 5.0, 0.0, 9.0],
            "s": pd.Series(["a", "b", "d", "d"], dtype=levels),
            "t": pd.Categorical(["u", "u", "v", "v"]),
        }
    )
    model = NadarayaWatsonRegressor([1.0, 0.0, 0.0]).fit(X, [0.0, 1.0, 2.0, 3.0])
    query = pd.DataFrame({"x": [0.0], "s": pd.Series(["c"], dtype=levels), "t": ["v"]})
    np.testing.assert_array_equal(model.predict(query.assign(s="d")), [2.0])
    if ordered:  # one step to d
        np.testing.assert_array_equal(model.predict(query), [2.0])
        other = query.assign(t="u")  # c to b is one step, to a two
        np.testing.assert_array_equal(model.predict(other), [1.0])


@pytest.mark.parametrize("lam", [1.0, 0.5])
def test_an_irrelevant_category_contributes_exactly_nothing(lam):
    X, y = table(200)
    X["copy"] = X["shop"].astype(str).radd("k")
    model = NadarayaWatsonRegressor([lam, 0.4, 0.7, 1.0]).fit(X, y)
    without = NadarayaWatsonRegressor([lam, 0.4, 0.7]).fit(X.drop(columns="copy"), y)
    expected = without.predict(X.drop(columns="copy"))
    np.testing.assert_allclose(model.predict(X), expected, rtol=1e-14)  # rows in another order


def test_costs_at_the_ends_of_lambda():
    costs = Codes.of([1.0, 1.0, 1.0, 1.0]).at(
        torch.tensor([0.0, 1e-9, 38.0, 39.0], dtype=torch.float64)
    )
    np.testing.assert_array_equal(costs.costs, [[0.0, 0.0, 38.0**2, np.inf]])
    for itemsize, dtype in ((8, np.float64), (4, np.float32)):
        assert costs.costs_in(itemsize)[0, 3] == EXACT[itemsize] == dtype(EXACT[itemsize])
        for k in (3, 5, 1000):  # whole multiples cancel whatever their order
            assert dtype(k) * dtype(EXACT[itemsize]) - k * dtype(EXACT[itemsize]) == 0


def test_categories_have_no_fast_transform():
    X, y = table(60)
    with pytest.raises(ValueError, match=r"nufft: .*categories have no fast transform"):
        NadarayaWatsonRegressor(1.0, algorithm="nufft").fit(X, y)
