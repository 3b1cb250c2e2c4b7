"""The slow, obvious reference: every matrix written out, in numpy and float64.

Nothing here is clever, so nothing here needs a test of its own beyond the published numbers.
The one concession: Gaussian and exponential weights are taken relative to the nearest usable row,
because far away all of them would underflow to zero while their ratios are still meaningful.

Letters: m queries, n training rows, d features, k outputs.
"""

import numpy as np

INFINITE_SUPPORT = ("gaussian", "exponential")


def _cos(angle):
    return angle.cos() if hasattr(angle, "cos") else np.cos(angle)


# Of an array or of a tensor u < 1, so that torch can differentiate them.
COMPACT_PROFILES = {
    "cosine": lambda u: _cos(np.pi * u / 2),
    "epanechnikov": lambda u: 1 - u**2,
    "tophat": lambda u: 1 + 0 * u,
    "linear": lambda u: 1 - u,
    "biweight": lambda u: (1 - u**2) ** 2,
    "triweight": lambda u: (1 - u**2) ** 3,
    "tricube": lambda u: (1 - u**3) ** 3,
}


def scaled_distances(X_query, X_train, bandwidth):
    """Norms u of (x - x_i) / h, (m, n)."""
    X_query, X_train = np.asarray(X_query, float), np.asarray(X_train, float)
    steps = (X_query[:, None, :] - X_train[None, :, :]) / np.asarray(bandwidth, float)
    return np.hypot.reduce(np.abs(steps), axis=-1)  # (m, n, d) -> (m, n), no overflow


def settled_distances(X_query, X_train, bandwidth):
    """The same (m, n), and 1 where u² is 1 up to roundings of the coordinates as they are given.

    A coordinate may be off by its dtype's eps (0.1 k: half of that for 0.1, half for the product),
    the bandwidth by as much; with longdouble nothing else is rounded.
    """
    arrays = [np.asarray(X) for X in (X_query, X_train)]
    eps = max(float(np.finfo(X.dtype).eps) if X.dtype.kind == "f" else 0.0 for X in arrays)
    eps = max(eps, float(np.finfo(float).eps))
    query, train = (X.astype(np.longdouble) for X in arrays)
    bandwidth = np.asarray(bandwidth, np.longdouble)
    steps = np.abs(query[:, None, :] - train[None, :, :]) / bandwidth
    sizes = (np.abs(query)[:, None, :] + np.abs(train)[None, :, :]) / bandwidth
    allowed = 2 * eps * np.sum(steps * sizes, axis=-1) + 4 * eps
    is_edge = np.abs(np.sum(steps**2, axis=-1) - 1) <= allowed
    return np.where(is_edge, 1.0, scaled_distances(X_query, X_train, bandwidth))


def log_kernel_values(kernel, u, usable):
    """Logarithm of the kernel at u (m, n), up to a term per query; -inf where not usable (m, n)."""
    if not callable(kernel) and kernel in INFINITE_SUPPORT:
        nearest = np.min(u, axis=1, initial=np.inf, where=usable, keepdims=True)
        nearest[~np.isfinite(nearest)] = 0.0
        excess = np.where(usable, u - nearest, 0.0)
        with np.errstate(over="ignore"):  # a logarithm of -inf is right
            # -(u^2 - nearest^2) / 2, as a product that is nan for no finite u
            logs = -excess * (u + nearest) / 2 if kernel == "gaussian" else -excess
    else:
        inside = u < 1
        profile = kernel if callable(kernel) else COMPACT_PROFILES[kernel]
        values = profile(u if callable(kernel) else np.where(inside, u, 0.0))
        with np.errstate(divide="ignore"):
            logs = np.log(np.asarray(values, float))
        if not callable(kernel):
            logs = np.where(inside, logs, -np.inf)
    return np.where(usable, logs, -np.inf)


def weights(kernel, X_query, X_train, bandwidth, sample_weight=None, exclude=None):
    """Attention weights (m, n); rows sum to 1, or are zero where the neighbourhood is empty.

    ``kernel`` is a name or a function of the array u (m, n); ``exclude`` (m, n) is True where a
    training row must not be used for a query. Logarithms of sample weights are added to those of
    the kernel, since weights may be as far apart as numbers can be.
    """
    u = settled_distances(X_query, X_train, bandwidth)
    sample_weight = np.ones(u.shape[1]) if sample_weight is None else np.asarray(sample_weight)
    usable = np.broadcast_to(sample_weight > 0, u.shape)
    if exclude is not None:
        usable = usable & ~np.asarray(exclude, bool)
    with np.errstate(divide="ignore"):
        logs = log_kernel_values(kernel, u, usable) + np.log(sample_weight)
    top = logs.max(axis=1, keepdims=True)
    return normalized(np.exp(logs - np.where(top > -np.inf, top, 0.0)))


def exponents(d, order):
    """Exponents (p, d) of all monomials of total degree at most `order`, by degree."""
    found = (a for a in np.ndindex(*(order + 1,) * d) if sum(a) <= order)
    return np.array(sorted(found, key=lambda a: (sum(a), [-i for i in a]))).reshape(-1, d)


def moments(kernel, X_query, X_train, values, order, bandwidth=1.0, exclude=None):
    """Sums (m, p, k) of kernel times ((x_j - q_i) / h)^a times values (n, k), for exponents a.

    Weights are relative to the nearest usable row's where the kernel has infinite support.
    """
    steps = np.asarray(X_train, float) - np.asarray(X_query, float)[:, None]
    steps = steps / np.asarray(bandwidth, float)  # (m, n, d)
    usable = np.ones(steps.shape[:2], bool) if exclude is None else ~np.asarray(exclude, bool)
    u = settled_distances(X_query, X_train, bandwidth)
    weights = np.exp(log_kernel_values(kernel, u, usable))
    powers = [np.prod(steps**a, axis=2) for a in exponents(steps.shape[2], order)]
    return np.stack([(weights * power) @ values for power in powers], axis=1)


def predict(
    kernel,
    X_query,
    X_train,
    y,
    bandwidth,
    sample_weight=None,
    exclude=None,
    empty="nearest",
):
    """Locally weighted means (m,) or (m, k), with the policy ``empty`` where no row has weight.

    ``"nearest"`` is the weighted mean of the rows at exactly the smallest distance, ``"mean"`` that
    of all rows, ``"nan"`` no value; excluded rows take no part, unless nothing else is there.
    """
    y = np.asarray(y, float)
    alpha = weights(kernel, X_query, X_train, bandwidth, sample_weight, exclude)
    fallback = fallback_weights(X_query, X_train, bandwidth, sample_weight, exclude, empty)
    is_empty = alpha.sum(axis=1) == 0
    alpha[is_empty] = fallback[is_empty]
    return alpha @ y  # (m, n) @ (n,) or (n, k)


def fallback_weights(X_query, X_train, bandwidth, sample_weight, exclude, empty):
    """Weights (m, n) that the policy ``empty`` puts in the place of an empty neighbourhood."""
    u = scaled_distances(X_query, X_train, bandwidth)
    mass = np.broadcast_to(relative_weights(sample_weight, u.shape[1]), u.shape).copy()
    if empty == "nan":
        return np.full(u.shape, np.nan)
    if exclude is not None:
        others = np.where(exclude, 0.0, mass)
        alone = others.sum(axis=1) == 0
        mass = np.where(alone[:, None], mass, others)
    if empty == "nearest":
        smallest = np.min(u, axis=1, initial=np.inf, where=mass > 0, keepdims=True)
        mass[u != smallest] = 0.0
    return normalized(mass)


def predict_loo(kernel, X, y, bandwidth, sample_weight=None, empty="nearest", duplicates="auto"):
    """Predictions (n,) or (n, k) of each row from all rows that are not the same observation."""
    exclude = copies(X, y, sample_weight, duplicates)
    return predict(kernel, X, X, y, bandwidth, sample_weight, exclude, empty)


def loo_loss(kernel, X, y, bandwidth, sample_weight=None, empty="nearest", duplicates="auto"):
    """Weighted mean of squared leave-one-out errors; a float.

    With several outputs: the mean over outputs of each loss over that output's weighted variance.
    """
    y = np.asarray(y, float)
    share = normalized(relative_weights(sample_weight, len(y))[None, :])[0]
    predictions = predict_loo(kernel, X, y, bandwidth, sample_weight, empty, duplicates)
    errors = (y - predictions) ** 2
    losses = np.atleast_1d(share @ errors)
    if losses.size == 1:
        return float(losses[0])
    variances = share @ (y - share @ y) ** 2
    return float(np.mean(losses / np.where(variances > 0, variances, 1.0)))


def loo_losses(kernel, X, y, bandwidths):
    """`loo_loss` of each of several bandwidths, for equal weights; copies are looked for once."""
    exclude = copies(X, y)
    return [np.mean((y - predict(kernel, X, X, y, h, exclude=exclude)) ** 2) for h in bandwidths]


def loo_absolute(kernel, X, y, bandwidth, sample_weight=None, duplicates="auto"):
    """Weighted mean of absolute leave-one-out errors; a float."""
    share = normalized(relative_weights(sample_weight, len(y))[None, :])[0]
    predictions = predict_loo(kernel, X, y, bandwidth, sample_weight, duplicates=duplicates)
    return float(share @ np.abs(y - predictions))


def hat_matrix(kernel, X, y, bandwidth, sample_weight=None, duplicates="auto"):
    """Matrix H (p, p) that turns the observations' y into fitted means, y and weights (p,)."""
    X, y, sample_weight = merge_copies(X, y, sample_weight, duplicates)
    return weights(kernel, X, X, bandwidth, sample_weight), y, sample_weight


def in_sample(kernel, X, y, bandwidth, sample_weight=None, duplicates="auto"):
    """Mean squared error of the fit, tr H, and Kish's number of observations."""
    hat, y, sample_weight = hat_matrix(kernel, X, y, bandwidth, sample_weight, duplicates)
    errors = y - hat @ y
    return np.average(errors**2, weights=sample_weight), np.trace(hat), kish(sample_weight)


def aicc(kernel, X, y, bandwidth, sample_weight=None, duplicates="auto"):
    """Corrected Akaike criterion of Hurvich, Simonoff and Tsai (1998); infinite past its pole."""
    variance, trace, n = in_sample(kernel, X, y, bandwidth, sample_weight, duplicates)
    if trace + 2 >= n:
        return np.inf
    return float(np.log(variance) + (1 + trace / n) / (1 - (trace + 2) / n))


def gcv(kernel, X, y, bandwidth, sample_weight=None, duplicates="auto"):
    """Generalised cross-validation."""
    variance, trace, n = in_sample(kernel, X, y, bandwidth, sample_weight, duplicates)
    return float(variance / (1 - trace / n) ** 2)


CRITERIA = {"loo": loo_loss, "loo_absolute": loo_absolute, "aicc": aicc, "gcv": gcv}


def effective_neighbors(kernel, X_query, X_train, bandwidth, sample_weight=None, y=None):
    """Kish's number of neighbours behind each prediction (m,), 0 where there are none.

    Given ``y``, copies count as one neighbour: only then do weights equal repetition.
    """
    if y is not None:
        X_train, _, sample_weight = merge_copies(X_train, y, sample_weight)
    alpha = weights(kernel, X_query, X_train, bandwidth, sample_weight)
    return np.array([kish(row) for row in alpha])


def kish(weights):
    """Effective number of rows (sum w)^2 / sum w^2 of weights (n,); 0 if all are zero."""
    weights = np.asarray(weights, float)
    if not np.any(weights):
        return 0.0
    weights = weights / np.max(weights)
    return float(np.sum(weights) ** 2 / np.sum(weights**2))


def equal_rows(X, y):
    """Mask (n, n): True where two rows are identical in x and in y."""
    rows = observations(X, y)
    return np.all(rows[:, None, :] == rows[None, :, :], axis=-1)


def copies(X, y, sample_weight=None, duplicates="auto", all_categories=False):
    """Mask (n, n): True where two rows are one observation, a row and itself always.

    ``all_categories`` tells that every column of X is a category. Rows without weight are copies of
    nothing. Under ``"auto"`` equal rows are rows where coincidences are to be expected:
    ``n prod_j max(p_j, mean p_j) >= 0.01``, where their group is large, or in a lookup table.
    """
    itself = np.eye(len(X), dtype=bool)
    used = relative_weights(sample_weight, len(X)) > 0
    same = equal_rows(X, y) & used & used[:, None]
    if duplicates == "keep":
        return itself
    if duplicates == "auto":
        rows, n = observations(X, y), int(used.sum())
        same = same & ~may_be_chance(rows[used], rows, n, np.shape(X)[1], all_categories)[:, None]
    return same | itself


def may_be_chance(used, rows, n, n_features, all_categories):
    """Mask (m,): True where the equals of a row (m, d + k) are to be expected among those used."""
    distinct, sizes = np.unique(used, axis=0, return_counts=True)
    expected = np.full(len(distinct), float(n))
    for column in distinct.T:
        if np.ptp(column) > 0:
            shares = (np.sum(column[:, None] == column, axis=1) - 1) / (len(distinct) - 1)
            expected *= np.maximum(shares, shares.mean())
    x = distinct[:, :n_features]
    is_lookup = np.sum(np.all(x[:, None] == x, axis=-1), axis=1) == 1
    by_chance = (expected >= 0.01) | (sizes >= max(10, np.sqrt(n))) | (is_lookup & all_categories)
    return np.array([by_chance[np.all(distinct == row, axis=1)].any() for row in rows])


def merge_copies(X, y, sample_weight=None, duplicates="auto"):
    """Observations X (p, d), y (p,) or (p, k) and their summed weights (p,).

    Rows without weight are removed; the others stay in the order of their first appearance.
    """
    X, y = np.asarray(X, float), np.asarray(y, float)
    sample_weight = np.ones(len(X)) if sample_weight is None else np.asarray(sample_weight, float)
    X, y, sample_weight = (a[sample_weight > 0] for a in (X, y, sample_weight))
    same = copies(X, y, None, duplicates)
    first = np.argmax(same, axis=1)
    distinct = np.flatnonzero(first == np.arange(len(X)))
    return X[distinct], y[distinct], same[distinct] @ sample_weight


def observations(X, y):
    """Features and outputs side by side, (n, d + k)."""
    X, y = np.asarray(X, float), np.asarray(y, float)
    return np.column_stack([X, y.reshape(len(X), -1)])


def relative_weights(sample_weight, n):
    """Weights (n,) with maximum 1; all ones for ``None``."""
    if sample_weight is None:
        return np.ones(n)
    sample_weight = np.asarray(sample_weight, float)
    return sample_weight / np.max(sample_weight)


def normalized(mass):
    """Rows of mass (m, n) divided by their sums; rows of zeros stay zero."""
    total = mass.sum(axis=1, keepdims=True)
    return mass / np.where(total > 0, total, 1.0)


def mixed_distances(queries, keys, bandwidth, lambdas, ordered, n_steps):
    """Distances u (m, n) between rows of numbers, then positions of categories.

    ``exp(−u²/2)`` is the Gaussian of the numbers times λ for each mismatch, or for each step of an
    ordered feature. ``n_steps`` is the largest number of steps. Where λ is 0, u is infinite beside
    rows with fewer mismatches: those count the rest of the distance only among themselves.
    """
    queries, keys = np.asarray(queries, float), np.asarray(keys, float)
    d = len(bandwidth)
    squares = scaled_distances(queries[:, :d], keys[:, :d], bandwidth) ** 2 if d else 0.0
    exact = np.zeros((len(queries), len(keys)))
    for f, lam in enumerate(lambdas, start=d):
        steps = np.abs(queries[:, None, f] - keys[None, :, f])
        steps = np.minimum(steps, n_steps[f - d]) if ordered[f - d] else (steps != 0) * 1.0
        if lam == 0:
            exact = exact + steps
        else:
            squares = squares - 2 * np.log(lam) * steps
    return np.sqrt(squares), exact
