"""Bandwidth selection: the criterion reached, the time, and what it finds, beside its peers.

Sections, each by its flag (all of them if none is given):

--timing      seconds beside statsmodels' KernelReg(bw="cv_ls"), and ours alone on more rows
--problems    random problems of many kinds: is our criterion equal to theirs or lower?
--real        the same on real one- and several-dimensional sets (--data DIR)
--recovery    3 relevant and 5 irrelevant features: which are declared irrelevant, and test R2
--mixed       numbers and categories side by side: seconds and test R2
--invariance  how little weights, copies and units move the bandwidth

Where two bandwidths are compared, the leave-one-out error of both is computed by one plain function
of this file, for the Gaussian product kernel with Li and Racine's factor for categories.
"""

import argparse
import statistics
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from _report import print_header, print_table, timed
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.kernel_ridge import KernelRidge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from statsmodels.nonparametric.kernel_regression import KernelReg

from sknw import NadarayaWatsonRegressor

SECTIONS = ("timing", "problems", "real", "recovery", "mixed", "invariance")
REAL = ("mcycle", "lidar", "faithful", "engel", "cps71", "ethanol", "cars")
REAL_WIDE = ("concrete", "energy", "yacht")
_CALLS = 5
EQUAL = 1e-6


def main():
    options = _options()
    print_header("selection: bandwidths by leave-one-out error")
    ours(*smooth(50, 1, seed=0))  # warms up
    chosen = [name for name in SECTIONS if getattr(options, name)] or SECTIONS
    for name in chosen:
        print(f"\n## {name}", flush=True)
        globals()[f"run_{name}"](options)


# --- problems ------------------------------------------------------------------------------------


def smooth(n, d, seed):
    """Draw rows of a smooth additive function whose features differ in their wiggliness."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-2, 2, size=(n, d))
    frequencies = np.linspace(2, 0.5, d) if d > 1 else np.array([2.0])
    return X, np.sin(X * frequencies).sum(axis=1) + rng.normal(0, 0.3, size=n)


def irrelevant(n, d, seed):
    """Only the first feature counts."""
    X, _ = smooth(n, d, seed)
    return X, np.sin(2 * X[:, 0]) + np.random.default_rng(seed).normal(0, 0.3, size=n)


def heteroscedastic(n, d, seed):
    """The noise grows with the first feature."""
    X, y = smooth(n, d, seed)
    return X, y + np.random.default_rng(seed).normal(size=n) * np.exp(0.5 * X[:, 0])


def discrete(n, d, seed):
    """Features have few distinct values."""
    X, y = smooth(n, d, seed)
    return np.round(2 * X) / 2, y


def with_category(n, d, seed):
    """The last of d features is one of three unordered categories."""
    X, y = smooth(n, d, seed)
    category = np.random.default_rng(seed + 1).integers(0, 3, n)
    X[:, -1] = category
    return X, y + np.array([0.0, 1.5, 1.6])[category]


KINDS = {
    "smooth": smooth,
    "irrelevant": irrelevant,
    "heteroscedastic": heteroscedastic,
    "discrete": discrete,
    "with category": with_category,
}


def random_problems(n_problems):
    """Yield (kind, n, d, seed): every kind in turn, sizes and dimensions from a fixed draw."""
    rng = np.random.default_rng(0)
    for seed in range(n_problems):
        kind = list(KINDS)[seed % len(KINDS)]
        n = int(np.exp(rng.uniform(np.log(50), np.log(2000))))
        d = int(rng.integers(2 if kind in ("irrelevant", "with category") else 1, 5))
        n = n if d == 1 else min(n, 600 if d < 4 else 300)  # theirs takes minutes beyond
        yield kind, n, d, seed


# --- both searches, one criterion ----------------------------------------------------------------


def ours(X, y, categorical=False):
    features = [X.shape[1] - 1] if categorical else None
    return NadarayaWatsonRegressor(categorical_features=features).fit(X, y).bandwidth_


def theirs(X, y, categorical=False):
    """Return statsmodels' bandwidths, its Aitchison-Aitken λ as Li and Racine's."""
    types = "c" * (X.shape[1] - categorical) + "u" * categorical
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its search tries bandwidths at which all weights are 0
        found = np.array(KernelReg(y, X, var_type=types, reg_type="lc", bw="cv_ls", rng=0).bw)
    if categorical:
        n_others = len(np.unique(X[:, -1])) - 1
        lam = np.clip(found[-1], 0, 1 - 1e-12)
        found[-1] = min(lam / (n_others * (1 - lam)), 1.0)
    return found


def criterion(X, y, bandwidth, categorical=False):
    """Mean squared leave-one-out error, row by row."""
    bandwidth = np.abs(np.asarray(bandwidth, dtype=float))  # theirs may be negative
    errors = [_error(X, y, bandwidth, row, categorical) for row in range(len(X))]
    return float(np.mean(np.square(errors)))


def _error(X, y, bandwidth, row, categorical):
    others = np.arange(len(X)) != row
    numbers = X.shape[1] - categorical
    steps = (X[others, :numbers] - X[row, :numbers]) / bandwidth[:numbers]
    log_weights = -0.5 * np.square(steps).sum(axis=1)
    if categorical:
        lam = max(bandwidth[-1], 1e-300)
        log_weights += np.log(lam) * (X[others, -1] != X[row, -1])
    weights = np.exp(log_weights - log_weights.max())  # a common factor, so that none is 0 / 0
    return y[row] - weights @ y[others] / weights.sum()


def compared(X, y, categorical=False):
    """Seconds and criterion of both: (ours, theirs, our criterion, their criterion).

    Ours take milliseconds, so the median of several calls is taken, of theirs one.
    """
    calls = [timed(lambda: ours(X, y, categorical)) for _ in range(_CALLS)]
    mine, my_seconds = calls[0][0], statistics.median(seconds for _, seconds in calls)
    other, their_seconds = timed(lambda: theirs(X, y, categorical))
    criteria = (criterion(X, y, bandwidth, categorical) for bandwidth in (mine, other))
    return my_seconds, their_seconds, *criteria


def print_comparison(rows):
    """Print a table of comparisons, and how often ours is equal or lower."""
    header = ("problem", "n", "d", "sknw [s]", "statsmodels [s]", "sknw", "statsmodels", "excess")
    table = [
        (*row[:5], f"{row[5]:.7g}", f"{row[6]:.7g}", f"{row[5] / row[6] - 1:+.1e}") for row in rows
    ]
    print_table(header, table)
    excess = np.array([row[5] / row[6] - 1 for row in rows])
    print(
        f"\nequal (within {EQUAL:g}) or lower: {np.mean(excess <= EQUAL):.0%} of {len(rows)}; "
        f"lower by more than {EQUAL:g}: {np.mean(excess < -EQUAL):.0%}; "
        f"largest loss {max(excess.max(), 0):.1e}, largest gain {-min(excess.min(), 0):.1e}; "
        f"median speed ratio {np.median([row[4] / row[3] for row in rows]):.0f}",
        flush=True,
    )


# --- sections ------------------------------------------------------------------------------------


def run_timing(options):
    rows = []
    for n in options.n:
        for d in options.d:
            measured = [compared(*smooth(n, d, seed)) for seed in range(options.repeats)]
            mine, other, *criteria = np.median(measured, axis=0).tolist()
            ratio = np.median([m[1] / m[0] for m in measured])
            excess = max(m[2] / m[3] - 1 for m in measured)
            rows.append((n, d, mine, other, f"{ratio:.0f}", *criteria, f"{excess:+.1e}"))
    header = ("n", "d", "sknw [s]", "statsmodels [s]", "speed ratio", "sknw", "statsmodels")
    print_table((*header, "worst excess"), rows)
    rows = []
    for n in options.alone:
        problems = [smooth(n, options.alone_d, seed) for seed in range(max(3, options.repeats))]
        seconds = [
            timed(lambda problem=problem: ours(*problem))[1]
            for problem in problems
            for _ in range(_CALLS)
        ]
        rows.append((n, options.alone_d, statistics.median(seconds), min(seconds), max(seconds)))
    print_table(("n", "d", "sknw [s]", "fastest", "slowest"), rows)


def run_problems(options):
    rows = []
    for kind, n, d, seed in random_problems(options.n_problems):
        X, y = KINDS[kind](n, d, seed)
        rows.append((kind, n, d, *compared(X, y, categorical=kind == "with category")))
    print_comparison(rows)


def run_real(options):
    if options.data is None:
        print("skipped: needs --data DIR with the sets as .npz files of X and y")
        return
    rows = []
    for name in options.sets:
        data = np.load(options.data / f"{name}.npz")
        X, y = data["X"], data["y"]
        rows.append((name, *X.shape, *compared(X, y)))
    print_comparison(rows)
    print(
        "rows equal in X and y are one observation for sknw, ordinary neighbours for statsmodels;"
    )
    print("the criterion printed is row by row, that of statsmodels")


def run_recovery(options):
    n, seeds = 1000, options.seeds
    exact, missed, wrong, scores = 0, 0, 0, []
    for seed in range(seeds):
        X, y, X_test, y_test = _with_irrelevant(n, seed)
        model = NadarayaWatsonRegressor().fit(X, y)
        declared = set(model.irrelevant_features_.tolist())
        exact += declared == {3, 4, 5, 6, 7}
        missed += len({3, 4, 5, 6, 7} - declared)
        wrong += len(declared & {0, 1, 2})
        peers = (_tuned_kernel_ridge(), RandomForestRegressor(200, random_state=0, n_jobs=2))
        scores.append([model.score(X_test, y_test)])
        scores[-1] += [peer.fit(X, y).score(X_test, y_test) for peer in peers]
    print(f"n = {n}, {seeds} seeds: exactly the irrelevant ones declared {exact / seeds:.0%};")
    print(f"irrelevant ones not declared {missed / (5 * seeds):.0%}, ", end="")
    print(f"relevant ones declared {wrong / (3 * seeds):.0%}")
    medians = np.median(scores, axis=0)
    print_table(("test R2", "sknw", "KernelRidge", "RandomForest"), [("median", *medians)])


def _with_irrelevant(n, seed):
    rng = np.random.default_rng(seed)
    X = rng.uniform(-1, 1, size=(2 * n, 8))
    y = np.sin(3 * X[:, 0]) + X[:, 1] ** 2 + X[:, 2] + rng.normal(0, 0.3, 2 * n)
    return X[:n], y[:n], X[n:], y[n:]


def _tuned_kernel_ridge():
    grid = {"kernelridge__alpha": [1e-2, 1e-1, 1], "kernelridge__gamma": [0.01, 0.03, 0.1, 0.3]}
    ridge = make_pipeline(StandardScaler(), KernelRidge(kernel="rbf"))
    return GridSearchCV(ridge, grid, cv=3)


def run_mixed(options):
    rows = []
    for seed in range(options.repeats):
        X, y, X_test, y_test = _mixed(1000, seed)
        encoded = make_column_transformer(
            (OneHotEncoder(), ["a", "b", "o"]), remainder=StandardScaler()
        )
        grid = {"kernelridge__alpha": [1e-2, 1e-1, 1], "kernelridge__gamma": [0.03, 0.1, 0.3, 1]}
        models = {
            "sknw": NadarayaWatsonRegressor(),
            "one-hot + KernelRidge": GridSearchCV(
                make_pipeline(encoded, KernelRidge(kernel="rbf")), grid, cv=3
            ),
            "HistGradientBoosting": HistGradientBoostingRegressor(
                categorical_features="from_dtype", random_state=0
            ),
        }
        for name, model in models.items():
            _, seconds = timed(lambda model=model, X=X, y=y: model.fit(X, y))
            rows.append((name, seconds, model.score(X_test, y_test)))
    names = list(dict.fromkeys(row[0] for row in rows))
    table = [
        (name, *np.median([row[1:] for row in rows if row[0] == name], axis=0)) for name in names
    ]
    print_table(("n = 1000, 3 numbers, 2 unordered, 1 ordered", "fit [s]", "test R2"), table)


def _mixed(n, seed):
    rng = np.random.default_rng(seed)
    numbers = rng.uniform(-1, 1, size=(2 * n, 3))
    a, b, o = (rng.integers(0, c, 2 * n) for c in (4, 3, 5))
    y = np.sin(3 * numbers[:, 0]) * np.array([1, -1, 0.5, 0])[a] + numbers[:, 1] + 0.4 * o
    y = y + np.array([0, 1, 1.2])[b] + rng.normal(0, 0.3, 2 * n)
    X = pd.DataFrame(numbers, columns=["x1", "x2", "x3"])
    X["a"], X["b"] = pd.Categorical(a), pd.Categorical(b)
    X["o"] = pd.Categorical(o, ordered=True)
    return X[:n], y[:n], X[n:], y[n:]


def run_invariance(options):
    rows = []
    for n, d in ((300, 1), (1000, 3)):
        X, y = smooth(n, d, seed=1)
        rng = np.random.default_rng(0)
        one = _fitted(X, y)
        w = rng.uniform(0.5, 2, n)
        copies = rng.permutation(n) < n // 5
        doubled = np.vstack([X, X[copies]]), np.append(y, y[copies])
        changes = {
            "weights x 10": (_fitted(X, y, w), _fitted(X, y, 10 * w)),
            "20 % of rows copied, against weights of two": (
                _fitted(X, y, 1.0 + copies),
                _fitted(*doubled),
            ),
            "20 % of rows copied, against none copied": (one, _fitted(*doubled)),
            "y x 1e6": (one, _fitted(X, 1e6 * y)),
        }
        for name, (before, after) in changes.items():
            moved = np.abs(after / before - 1)[before < 100].max()
            rows.append((n, d, name, f"{moved:.1e}"))
    print_table(("n", "d", "change", "largest relative move of a bandwidth"), rows)


def _fitted(X, y, sample_weight=None):
    return NadarayaWatsonRegressor().fit(X, y, sample_weight=sample_weight).bandwidth_


def _options():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in SECTIONS:
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--n", type=int, nargs="*", default=[250, 1000], help="rows of --timing")
    parser.add_argument("--d", type=int, nargs="+", default=[1, 3], help="features of --timing")
    parser.add_argument("--repeats", type=int, default=3, help="seeds of --timing and --mixed")
    parser.add_argument("--alone", type=int, nargs="*", default=[4000], help="rows, ours only")
    parser.add_argument("--alone-d", type=int, default=3, help="features of --alone")
    parser.add_argument("--n-problems", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=50, help="of --recovery")
    parser.add_argument("--data", type=Path, default=None, help="folder of real sets")
    parser.add_argument("--sets", nargs="+", default=[*REAL, *REAL_WIDE], help="of --real")
    return parser.parse_args()


if __name__ == "__main__":
    main()
