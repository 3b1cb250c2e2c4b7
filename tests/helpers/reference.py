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


# dK/du of an array u < 1, for kernels without infinite support.
COMPACT_SLOPES = {
    "cosine": lambda u: -np.pi / 2 * np.sin(np.pi * u / 2),
    "epanechnikov": lambda u: -2 * u,
    "tophat": lambda u: 0 * u,
    "linear": lambda u: -1 + 0 * u,
    "biweight": lambda u: -4 * u * (1 - u**2),
    "triweight": lambda u: -6 * u * (1 - u**2) ** 2,
    "tricube": lambda u: -9 * u**2 * (1 - u**3) ** 2,
}


def gradient(kernel, X_query, X_train, y, bandwidth, sample_weight=None, empty="nearest"):
    """Derivatives (m, d) or (m, d, k) of `predict` by the coordinates of the queries.

    ``sum_i w_i K'(u_i) du_i/dx (y_i - f) / sum_i w_i K(u_i)``; at the edge of a support K' is the
    mean of both sides, and at u = 0 the cusp of a kernel adds nothing. In long doubles.
    """
    query, train, y, h = (np.asarray(a, np.longdouble) for a in (X_query, X_train, y, bandwidth))
    y = y.reshape(len(train), -1)
    mass = relative_weights(sample_weight, len(y)).astype(np.longdouble)
    steps = (query[:, None] - train) / h
    u = np.sqrt(np.sum(steps**2, axis=-1))
    if kernel in INFINITE_SUPPORT:
        nearest = np.min(u, axis=1, initial=np.inf, where=mass > 0, keepdims=True)
        logs = -(u - nearest) * (u + nearest) / 2 if kernel == "gaussian" else nearest - u
        alpha = mass * np.exp(logs)
        slopes = alpha * (-u if kernel == "gaussian" else -1.0)
    else:
        u = settled_distances(X_query, X_train, bandwidth).astype(np.longdouble)
        alpha = mass * np.where(u < 1, COMPACT_PROFILES[kernel](np.minimum(u, 1)), 0)
        inside = np.where(u < 1, 1.0, np.where(u == 1, 0.5, 0.0))
        slopes = mass * inside * COMPACT_SLOPES[kernel](np.minimum(u, 1))
    total = alpha.sum(axis=1)
    is_empty = total == 0
    total[is_empty] = 1
    alpha, slopes = alpha / total[:, None], slopes / total[:, None]
    anchor = y[alpha.argmax(axis=1)]  # values as differences from one of them: nothing cancels
    values = y - anchor[:, None]  # (m, n, k)
    residuals = values - np.sum(alpha[..., None] * values, axis=1, keepdims=True)
    by_u = np.where(u > 0, 1 / np.where(u > 0, u, 1), 0)
    directions = by_u[..., None] * steps / h  # (m, n, d)
    # a vector that all pairs share adds nothing: without it the sum keeps its digits far away
    if kernel in INFINITE_SUPPORT:
        rates = (-u if kernel == "gaussian" else -np.ones_like(u))[..., None] * directions
        rates -= np.take_along_axis(rates, alpha.argmax(axis=1)[:, None, None], axis=1)
        result = np.einsum("mn,mnd,mnk->mdk", alpha, rates, residuals)
    else:
        result = np.einsum("mn,mnd,mnk->mdk", slopes, directions, residuals)
    result[is_empty] = np.nan if empty == "nan" else 0
    return result.astype(float)


def gradient_by_differences(predict, X_query, step=1e-5):
    """Central differences (m, d) or (m, d, k) of a function of queries (m, d)."""
    X_query = np.asarray(X_query, float)
    columns = []
    for direction in step * np.eye(X_query.shape[1]):
        higher, lower = predict(X_query + direction), predict(X_query - direction)
        columns.append((higher - lower) / (2 * step))
    return np.stack(columns, axis=1)


def leverage(kernel, X, y, bandwidth, sample_weight=None, duplicates="auto"):
    """The diagonal of the hat matrix for each row (n,): copies share it, weightless rows have 0."""
    hat, _, _ = hat_matrix(kernel, X, y, bandwidth, sample_weight, duplicates)
    used = relative_weights(sample_weight, len(X)) > 0
    same = copies(X, y, sample_weight, duplicates)
    first = np.argmax(same, axis=1)
    heads = np.flatnonzero(used & (first == np.arange(len(X))))
    result = np.zeros(len(X))
    result[used] = np.diag(hat)[np.searchsorted(heads, first[used])]
    return result


def degrees_of_freedom(kernel, X, y, bandwidth, sample_weight=None, duplicates="auto"):
    """Both kinds: tr H, and sum_ij (w_i / w_j) H_ij^2."""
    hat, _, mass = hat_matrix(kernel, X, y, bandwidth, sample_weight, duplicates)
    return float(np.trace(hat)), float(np.sum(mass[:, None] / mass * hat**2))


def residual_variance(kernel, X, y, bandwidth, sample_weight=None, duplicates="auto"):
    """``sum w r^2 / sum_i w_i (1 - 2 H_ii + sum_j H_ij^2)``, of each output."""
    hat, y, mass = hat_matrix(kernel, X, y, bandwidth, sample_weight, duplicates)
    kept = 1 - 2 * np.diag(hat) + np.sum(hat**2, axis=1)
    return mass @ (y - hat @ y) ** 2 / (mass @ kept)


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


# --- local polynomials ---------------------------------------------------------------------------


def polynomial_fit(
    kernel, X_query, X_train, bandwidth, degree, sample_weight=None, exclude=None, numbers=None
):
    """Weights (m, n) whose sums of y are local polynomials, those of slopes, and lowered (m,).

    By projections, not by normal equations: the intercept's residual r beside all other columns
    has the weights ``√w r / ‖r‖²``. Rows without a neighbour are zero. Slopes (m, d, n) are those
    of a degree above zero, in units of X. ``numbers`` are the columns with monomials (None: all).
    """
    alpha = weights(kernel, X_query, X_train, bandwidth, sample_weight, exclude)
    X, Q = np.asarray(X_train, float), np.asarray(X_query, float)
    h = np.broadcast_to(np.asarray(bandwidth, float), X.shape[1])
    X, Q = X / h, Q / h
    _, cell = np.unique(X, axis=0, return_inverse=True)
    d = X.shape[1] if numbers is None else len(numbers)
    numbers = range(d) if numbers is None else numbers
    has_weight = np.ones(len(X), bool) if sample_weight is None else np.asarray(sample_weight) > 0
    kept = independent_terms(X[has_weight][:, list(numbers)], degree)
    found = np.zeros(alpha.shape), np.zeros((len(Q), d, len(X))), np.zeros(len(Q), bool)
    for i, row in enumerate(alpha):
        if row.sum() > 0:
            steps = (X - Q[i])[:, list(numbers)]
            neighbors = kish(np.bincount(cell.ravel(), row))
            at = _thin_fit(row, steps, degree, kept, neighbors)
            found[0][i], found[1][i], found[2][i] = at[0], at[1] / h[list(numbers), None], at[3] < 1
    return found


def independent_terms(rows, degree):
    """Which monomials (p,) of rows (n, d) are no combination of those before them."""
    spread = np.ptp(rows, axis=0)
    rows = (rows - rows.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    rows[:, spread == 0] = 0.0
    powers = np.array([np.prod(rows**a, axis=1) for a in exponents(rows.shape[1], degree)]).T
    ranks = [np.linalg.matrix_rank(powers[:, : j + 1], tol=1e-5) for j in range(powers.shape[1])]
    return np.diff([0, *ranks]) > 0


def _thin_fit(row, steps, degree, kept, neighbors):
    """Weights (n,), slopes' weights (d, n), bound of negative weights and share of this degree."""
    if degree == 0:
        return row, np.zeros((steps.shape[1], len(row))), 0.0, 1.0
    used, root = exponents(steps.shape[1], degree)[kept], np.sqrt(row.astype(np.longdouble))
    columns = [root * np.prod(steps.astype(np.longdouble) ** a, axis=1) for a in used]
    fit, bound = _projected(columns, 0, root)
    slopes = np.zeros((steps.shape[1], len(row)))
    for j, a in enumerate(used):
        if a.sum() == 1:
            slopes[np.argmax(a)] = _projected(columns, j, root)[0]
    if bound <= 2:
        return fit, slopes, bound, 1.0
    n_lower = len(exponents(steps.shape[1], degree - 1))
    lower = _thin_fit(row, steps, degree - 1, kept[:n_lower], neighbors)
    share = _kept_share(bound, lower[2], neighbors / len(used))
    if share == 0:
        return *lower[:3], 0.0
    mixed = [share * a + (1 - share) * b for a, b in zip((fit, slopes, bound), lower, strict=False)]
    return *mixed, share


def _projected(columns, target, root):
    """Weights (n,) of one coefficient, and for the intercept what bounds its negative weights."""
    basis = []
    for j, column in [(j, c) for j, c in enumerate(columns) if j != target]:
        left = _without(column, basis)
        if left @ left > 1e-13 * (column @ column) > 0:
            basis.append(left / np.sqrt(left @ left))
        assert j != target
    left = _without(columns[target], basis)
    size, whole = left @ left, columns[target] @ columns[target]
    if not size > 1e-13 * whole:
        return np.zeros(len(root)), np.inf
    return np.asarray(root * left / size, float), (np.sqrt(max(float(whole / size), 1)) - 1) / 2


def _without(column, basis):
    for _ in range(2):
        for other in basis:
            column = column - (other @ column) * other
    return column


def _kept_share(bound, lower, neighbors):
    """Share of a fit whose negative weights may sum to `bound`, beside that of the degree below."""
    if not np.isfinite(bound):
        return 0.0
    allowed = np.inf if neighbors >= 3 else 2 / min(1.0, 3 - neighbors)
    share = 1.0 if allowed == np.inf else min(1.0, (max(0, allowed - lower) / (bound - lower)) ** 2)
    fading = np.clip(np.log(5e4 / bound) / np.log(10), 0, 1)
    return share * fading**2 * (3 - 2 * fading)
