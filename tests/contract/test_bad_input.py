"""Bad input: what is refused, with which error and message, and that nothing changes by it.

Every case is a row of a table: an id, what is done, the exception and what its message must match.
A message names the culprit and says what must be and what came.
"""

import pickle
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from scipy import sparse
from sklearn.exceptions import NotFittedError

from sknw import NadarayaWatsonRegressor, ParametricNWRegressor
from sknw.datasets import attention_curve, make_attention_curve
from sknw.functional import attention_pooling
from sknw.support import tuning

N_ROWS, N_FEATURES = 12, 2
NAMES = ("width", "height")


def good_data():
    """Rows X (n, d) and targets y (n,) that every estimator here can fit."""
    rng = np.random.RandomState(0)
    X = rng.uniform(size=(N_ROWS, N_FEATURES))
    return X, np.sin(3 * X[:, 0]) + 0.1 * rng.normal(size=N_ROWS)


X, Y = good_data()


def fixed_bandwidth():
    return NadarayaWatsonRegressor(bandwidth=0.5)


def parametric():
    return ParametricNWRegressor(n_starts=1)


def textbook():
    return ParametricNWRegressor("scalar", bandwidth=1.0, solver="sgd", tol=0.01)


BOTH = (fixed_bandwidth, parametric)


@cache
def _pickled(maker, names):
    rows = X if names is None else pd.DataFrame(X, columns=names)
    return pickle.dumps(maker().fit(rows, Y))


def fitted(maker, names=None):
    """A model fitted on the good data, a new copy at each call."""
    return pickle.loads(_pickled(maker, names))


def with_value(array, value):
    """Return a copy with `value` in the first place."""
    array = np.array(array, dtype=float)
    array.flat[0] = value
    return array


class Case(NamedTuple):
    """One thing that must be refused."""

    id: str
    act: Any
    error: type[Exception]
    message: str


def as_parameters(cases, makers=(None,)):
    """Return one pytest parameter per maker and case."""
    return [
        pytest.param(*([] if maker is None else [maker]), case, id=_id(maker, case))
        for maker in makers
        for case in cases
    ]


def _id(maker, case):
    return case.id if maker is None else f"{maker.__name__}-{case.id}"


def refused(case):
    return pytest.raises(case.error, match=case.message)


# --- constructor parameters: `act` is the parameter and its value; fit must refuse it ---


def kernel_of_wrong_shape(u):
    return torch.ones(3, dtype=u.dtype)


def kernel_of_one_value(u):
    return torch.exp(-u).sum()


def kernel_returning_numpy(u):
    return np.exp(-u.detach().numpy())


def kernel_returning_nothing(u):
    return None


def kernel_below_zero(u):
    return 1 - u


def kernel_with_a_pole(u):
    return 1 / u


def kernel_without_values(u):
    return u * torch.nan


def kernel_of_complex_values(u):
    return torch.exp(-u).to(torch.complex128)


def kernel_without_moments(u):
    return 1 / (1 + u)


def bandwidth_case(id, value, message):
    return Case(f"bandwidth-{id}", ("bandwidth", value), ValueError, message)


# What must be: not positive and finite, not one per feature, not a number at all.
NOT_POSITIVE = r"^bandwidth must be positive and finite; got "
NOT_A_BANDWIDTH = r"^bandwidth must be .*(number|numeric).*; got "
NOT_A_NAME = (
    r"^bandwidth must be a positive number, an array with one per feature, one of "
    r"\['loo', .*'scott', 'silverman'.*\], a BandwidthSearch or a NeighborBandwidth; got "
)

BANDWIDTHS = [
    bandwidth_case("negative", -1.0, NOT_POSITIVE + r"-1\.0\.$"),
    bandwidth_case("zero", 0, NOT_POSITIVE + r"0\.$"),
    bandwidth_case("nan", np.nan, NOT_POSITIVE + r"nan\.$"),
    bandwidth_case("infinite", np.inf, NOT_POSITIVE + r"inf\.$"),
    bandwidth_case("numpy-zero", np.float64(0), NOT_POSITIVE + r"0\.0\.$"),
    bandwidth_case("tensor-below-zero", torch.tensor(-1.0), NOT_POSITIVE + r"-1\.0\.$"),
    bandwidth_case("one-of-two-negative", [1.0, -1.0], NOT_POSITIVE + r"\[1\.0, -1\.0\]\.$"),
    bandwidth_case("one-of-two-nan", [1.0, np.nan], NOT_POSITIVE + r"\[1\.0, nan\]\.$"),
    bandwidth_case("too-short", [1.0], r"^bandwidth has 1 values? but X has 2 features\.$"),
    bandwidth_case("too-long", (1.0, 2.0, 3.0), r"^bandwidth has 3 values but X has 2 features"),
    bandwidth_case("empty", [], r"^bandwidth has 0 values but X has 2 features\.$"),
    bandwidth_case("2d", [[1.0, 1.0]], r"^bandwidth must be .*1-D.*; got .*shape \(1, 2\)\.$"),
    bandwidth_case("ragged", [[1.0], [1.0, 2.0]], NOT_A_BANDWIDTH),
    bandwidth_case("sparse", sparse.csr_array([[1.0, 1.0]]), NOT_A_BANDWIDTH),
    bandwidth_case("unknown-name", "bandit", NOT_A_NAME + r"'bandit'\.$"),
    bandwidth_case("name-in-capitals", "Scott", NOT_A_NAME + r"'Scott'\.$"),
    bandwidth_case("number-as-string", "0.5", NOT_A_NAME + r"'0\.5'\.$"),
    bandwidth_case("strings", ["scott", "loo"], NOT_A_BANDWIDTH + r"\['scott', 'loo'\]\.$"),
    bandwidth_case("none", None, NOT_A_BANDWIDTH + r"None\.$"),
    bandwidth_case("bool", True, NOT_A_BANDWIDTH + r"True\.$"),
    bandwidth_case("bools", [True, True], NOT_A_BANDWIDTH + r"\[True, True\]\.$"),
    bandwidth_case("complex", 1j, NOT_A_BANDWIDTH + r"1j\.$"),
    bandwidth_case("none-in-list", [1.0, None], NOT_A_BANDWIDTH + r"\[1\.0, None\]\.$"),
    bandwidth_case("dict", {"width": 1.0}, NOT_A_BANDWIDTH + r"\{'width': 1\.0\}\.$"),
]


def parameter_case(name, value, must_be, came=None):
    """A case of scikit-learn's declared constraints."""
    came = repr(value) if came is None else came
    escaped = came.translate({ord(sign): f"\\{sign}" for sign in "[]().+"})
    message = rf"^The '{name}' parameter of \w+ must be .*{must_be}.*\. Got {escaped} instead\.$"
    return Case(f"{name}={came}", (name, value), ValueError, message)


KERNEL_NAMES = r"(?=.*'gaussian')(?=.*'tricube')(?=.*'tophat')(?=.*callable)"
CALLABLE_KERNEL = r"^A callable kernel must return "
ABSENT = r"^device must be None, 'auto' or one that torch finds here: \[.*'cpu'\]; got "

NO_DEGREE = r"^degree must be an integer from 0 \(local means\) to 3; got "

COMMON_PARAMETERS = [
    *[
        parameter_case("duplicates", value, r"(?=.*'auto')(?=.*'keep')(?=.*'merge')")
        for value in ("twice", None, True)
    ],
    parameter_case("kernel", "gauss", KERNEL_NAMES),
    parameter_case("kernel", None, KERNEL_NAMES),
    parameter_case("kernel", ["gaussian"], KERNEL_NAMES),
    *[
        Case(
            function.__name__,
            ("kernel", function),
            ValueError,
            CALLABLE_KERNEL + rf"a torch tensor .*of the shape of the distances.*; got {came}",
        )
        for function, came in (
            (kernel_of_wrong_shape, r"shape \(3,\)"),
            (kernel_of_one_value, r"shape \(\)"),
            (kernel_returning_numpy, r".*ndarray"),
            (kernel_returning_nothing, r".*NoneType"),
        )
    ],
    *[
        Case(function.__name__, ("kernel", function), ValueError, CALLABLE_KERNEL + message)
        for function, message in (
            (kernel_below_zero, r"finite weights >= 0; got values from -999 to 1 "),
            (kernel_with_a_pole, r"finite weights >= 0; got values from 0\.001 to inf "),
            (kernel_without_values, r"finite weights >= 0; got .*nan"),
            (kernel_of_complex_values, r".*weights.*; got .*complex"),
        )
    ],
    parameter_case("algorithm", "fast", r"'auto'.*'dense'|'dense'.*'auto'"),
    parameter_case("algorithm", None, "a str among"),
    *[
        Case(f"degree={value}", ("degree", value), ValueError, NO_DEGREE + rf"{value}\.$")
        for value in (4, -1, True, 1.5)
    ],
    parameter_case("rtol", 0.0, r"float in the range \(0.0, 1.0\)"),
    parameter_case("rtol", 1, r"float in the range \(0.0, 1.0\)"),
    parameter_case("rtol", "tight", r"float in the range \(0.0, 1.0\)"),
    parameter_case("empty_neighborhood", "closest", r"'nearest'"),
    parameter_case("empty_neighborhood", None, "a str among"),
    parameter_case("device", 7, "None, an instance of 'str' or"),
    Case("device=cuda:99", ("device", "cuda:99"), ValueError, ABSENT + r"'cuda:99'\.$"),
    Case("device=object", ("device", torch.device("cuda:99")), ValueError, ABSENT + "'cuda:99'"),
    Case("device=nonsense", ("device", "nonsense"), ValueError, ABSENT + r"'nonsense'\.$"),
    Case("device=empty", ("device", ""), ValueError, ABSENT + r"''\.$"),
    Case("device=meta", ("device", "meta"), ValueError, ABSENT + r"'meta'\.$"),
    parameter_case("random_state", "seed", "an int in the range"),
    parameter_case("random_state", 1.5, "an int in the range"),
    parameter_case("random_state", -1, "an int in the range"),
    parameter_case("verbose", "yes", "an int in the range"),
    parameter_case("verbose", -1, "an int in the range"),
    parameter_case("categorical_features", "all", "'from_dtype'"),
    parameter_case("categorical_features", 1, "an array-like"),
    Case(
        "categorical_features=index",
        ("categorical_features", [99]),
        ValueError,
        r"^categorical_features as indices must be between 0 and \d; got \[99\]\.$",
    ),
]


def w_init_case(id, value, message):
    return Case(f"w_init-{id}", ("w_init", value), ValueError, r"^w_init must be " + message)


WRONG_SHAPE = r"a number or an array of shape \({n},\).*; got shape "

LEARNED_PARAMETERS = [
    parameter_case("metric", "manhattan", r"(?=.*'scalar')(?=.*'diagonal')"),
    parameter_case("metric", None, "a str among"),
    parameter_case("metric", 3, "a str among"),
    parameter_case("w_init", "one", "None, an instance of 'float' or an array-like"),
    parameter_case("w_init", 1j, "None, an instance of 'float' or an array-like"),
    w_init_case("zero", 0, r"finite and not zero; got 0\.$"),
    w_init_case("nan", np.nan, r"finite and not zero; got nan\.$"),
    w_init_case("infinite", -np.inf, r"finite and not zero; got -inf\.$"),
    w_init_case("strings", ["a", "b"], r"numeric; got \['a', 'b'\]\.$"),
    w_init_case("bool", True, r"numeric; got True\.$"),
    parameter_case("alpha", -1, r"a float in the range \[0\.0, inf\)"),
    parameter_case("alpha", np.nan, r"a float in the range \[0\.0, inf\)"),
    parameter_case("alpha", np.inf, r"a float in the range \[0\.0, inf\)"),
    parameter_case("alpha", "much", r"a float in the range \[0\.0, inf\)"),
    parameter_case("alpha", None, r"a float in the range \[0\.0, inf\)"),
    parameter_case("solver", "newton", r"(?=.*'lbfgs')(?=.*'sgd')"),
    parameter_case("solver", None, "a str among"),
    parameter_case("learning_rate_init", 0, r"None or a float in the range \(0\.0, inf\)"),
    parameter_case("learning_rate_init", -1.0, r"None or a float in the range \(0\.0, inf\)"),
    parameter_case("learning_rate_init", np.nan, r"None or a float in the range \(0\.0, inf\)"),
    parameter_case("learning_rate_init", "auto", r"None or a float in the range \(0\.0, inf\)"),
    parameter_case("max_iter", 0, r"an int in the range \[1, inf\)"),
    parameter_case("max_iter", 1.5, r"an int in the range \[1, inf\)"),
    parameter_case("max_iter", None, r"an int in the range \[1, inf\)"),
    parameter_case("tol", -1, r"a float in the range \[0\.0, inf\)"),
    parameter_case("tol", np.nan, r"a float in the range \[0\.0, inf\)"),
    parameter_case("tol", None, r"a float in the range \[0\.0, inf\)"),
    parameter_case("n_iter_no_change", 0, r"an int in the range \[1, inf\)"),
    parameter_case("n_iter_no_change", 2.5, r"an int in the range \[1, inf\)"),
    parameter_case("n_starts", 0, r"'auto'.*an int in the range \[1, inf\)"),
    parameter_case("n_starts", 1.5, r"'auto'.*an int in the range \[1, inf\)"),
    parameter_case("n_starts", "many", r"'auto'.*an int in the range \[1, inf\)"),
    parameter_case("n_components", 0, r"None or an int in the range \[1, inf\)"),
    parameter_case("n_components", 1.5, r"None or an int in the range \[1, inf\)"),
    parameter_case("batch_size", 0, r"'auto'.*an int in the range \[1, inf\)"),
    parameter_case("batch_size", "large", r"'auto'.*an int in the range \[1, inf\)"),
    parameter_case("early_stopping", "yes", "an instance of 'bool'"),
    parameter_case("validation_fraction", 0, r"a float in the range \(0\.0, 1\.0\)"),
    parameter_case("validation_fraction", 1.0, r"a float in the range \(0\.0, 1\.0\)"),
    parameter_case("warm_start", "yes", "an instance of 'bool'"),
    parameter_case("warm_start", None, "an instance of 'bool'"),
]

DIAGONAL_PARAMETERS = [
    w_init_case("too-long", [1.0, 2.0, 3.0], WRONG_SHAPE.format(n=2) + r"\(3,\)\.$"),
    w_init_case("2d", [[1.0, 1.0]], WRONG_SHAPE.format(n=2) + r"\(1, 2\)\.$"),
    w_init_case("empty", [], WRONG_SHAPE.format(n=2) + r"\(0,\)\.$"),
    w_init_case("one-of-two-zero", [1.0, 0.0], r"finite and not zero; got \[1\.0, 0\.0\]\.$"),
]

SCALAR_PARAMETERS = [
    w_init_case("one-per-feature", [1.0, 2.0], WRONG_SHAPE.format(n=1) + r"\(2,\)\.$"),
]

RULE_PARAMETERS = [
    Case(
        "kernel_without_moments",
        ("kernel", kernel_without_moments),
        ValueError,
        r"kernel_without_moments.* no finite second moment.*give the bandwidth as a number",
    ),
]

PARAMETERS = [
    *as_parameters(BANDWIDTHS, BOTH),
    *as_parameters(COMMON_PARAMETERS, BOTH),
    *as_parameters(LEARNED_PARAMETERS, (parametric,)),
    *as_parameters(DIAGONAL_PARAMETERS, (parametric,)),
    *as_parameters(SCALAR_PARAMETERS, (textbook,)),
    *as_parameters(RULE_PARAMETERS, (parametric,)),
]


def contents(model, without=()):
    """Everything that the model holds, to the last bit."""
    return pickle.dumps({name: value for name, value in vars(model).items() if name not in without})


def other_data():
    """Other rows than the model was fitted on, as many features, with names."""
    rows = pd.DataFrame(5 + 2 * X[::-1], columns=NAMES)
    return rows, 7 - Y


@pytest.mark.parametrize(("maker", "case"), PARAMETERS)
def test_bad_parameter_is_refused_by_fit_and_changes_nothing(maker, case):
    name, value = case.act
    model = maker().set_params(**{name: value})
    with refused(case):
        model.fit(X, Y)
    assert not any(attribute.endswith("_") for attribute in vars(model))

    model = fitted(maker)
    original = getattr(model, name)
    before, predictions = contents(model, without=[name]), model.predict(X)
    model.set_params(**{name: value})
    with refused(case):
        model.fit(*other_data())
    assert contents(model, without=[name]) == before
    assert getattr(model, name) is value
    model.set_params(**{name: original})
    np.testing.assert_array_equal(model.predict(X), predictions)


@pytest.mark.parametrize("maker", BOTH)
def test_every_parameter_has_a_bad_value_in_the_table(maker):
    model = maker()
    tried = {parameter.values[1].act[0] for parameter in PARAMETERS}
    assert set(model.get_params()) - tried == set()


def test_unknown_parameter_is_refused_by_the_constructor():
    with pytest.raises(TypeError, match="bandwith"):
        NadarayaWatsonRegressor(bandwith=1.0)
    with pytest.raises(ValueError, match=r"Invalid parameter 'bandwith' .*'bandwidth'"):
        NadarayaWatsonRegressor().set_params(bandwith=1.0)


# --- training data: `act` is the arguments of fit ---

NOT_NUMBERS = "could not convert string to float"

TRAINING_DATA = [
    Case("y-too-short", (X, Y[:-1]), ValueError, r"inconsistent numbers of samples: \[12, 11\]"),
    Case("y-missing", (X, None), ValueError, "requires y to be passed, but the target y is None"),
    Case("y-nan", (X, with_value(Y, np.nan)), ValueError, "Input y contains NaN"),
    Case("y-infinite", (X, with_value(Y, np.inf)), ValueError, "Input y contains infinity"),
    Case("y-strings", (X, ["a"] * N_ROWS), ValueError, NOT_NUMBERS),
    Case("y-complex", (X, Y * 1j), ValueError, "Complex data not supported"),
    Case("y-3d", (X, Y[:, None, None]), ValueError, "Found array with dim 3"),
    Case("y-without-outputs", (X, np.ones((N_ROWS, 0))), ValueError, r"0 feature\(s\)"),
    Case(
        "y-sparse",
        (X, sparse.csr_array(Y[:, None])),
        TypeError,
        "Sparse data was passed for y, but dense data is required",
    ),
    Case("X-missing", (None, Y), ValueError, "Expected 2D array, got scalar array"),
    Case("X-number", (1.0, Y), ValueError, "Expected 2D array, got scalar array"),
    Case("X-1d", (Y, Y), ValueError, r"Expected 2D array, got 1D array(.|\n)*reshape\(-1, 1\)"),
    Case("X-3d", (X[None], Y), ValueError, "Found array with dim 3"),
    Case("X-nan", (with_value(X, np.nan), Y), ValueError, "Input X contains NaN"),
    Case("X-infinite", (with_value(X, -np.inf), Y), ValueError, "Input X contains infinity"),
    Case(
        "X-too-large-for-float32",
        (with_value(X, np.inf).astype(np.float32), Y),
        ValueError,
        r"Input X contains infinity or a value too large for dtype\('float32'\)",
    ),
    Case("X-strings", ([["a", "b"]] * N_ROWS, Y), ValueError, NOT_NUMBERS),
    Case("X-complex", (X * 1j, Y), ValueError, "Complex data not supported"),
    Case("X-complex-tensor", (torch.tensor(X * 1j), Y), ValueError, "Complex data not supported"),
    Case("X-dict", ({"width": 1.0}, Y), TypeError, "dict"),
    Case("X-sparse", (sparse.csr_array(X), Y), TypeError, r"Sparse data was passed for X.*toarray"),
    Case("X-sparse-matrix", (sparse.coo_matrix(X), Y), TypeError, "Sparse data was passed for X"),
    Case("no-rows", (X[:0], Y[:0]), ValueError, r"Found array with 0 sample\(s\)"),
    Case("no-features", (X[:, :0], Y), ValueError, r"Found array with 0 feature\(s\)"),
    Case(
        "names-of-two-kinds",
        (pd.DataFrame(X, columns=["width", 1]), Y),
        TypeError,
        "Feature names are only supported if all input features have string names",
    ),
    Case(
        "weights-too-short",
        (X, Y, np.ones(N_ROWS - 1)),
        ValueError,
        r"sample_weight\.shape == \(11,\), expected \(12,\)",
    ),
    Case("weights-2d", (X, Y, np.ones((N_ROWS, 2))), ValueError, "[Ss]ample.weights? must be 1D"),
    Case("weights-nan", (X, Y, with_value(np.ones(N_ROWS), np.nan)), ValueError, "weight.* NaN"),
    Case(
        "weights-infinite",
        (X, Y, with_value(np.ones(N_ROWS), np.inf)),
        ValueError,
        "sample_weight contains infinity",
    ),
    Case(
        "weights-negative",
        (X, Y, with_value(np.ones(N_ROWS), -1.0)),
        ValueError,
        "[Nn]egative values .*sample_weight",
    ),
    Case(
        "weights-all-zero",
        (X, Y, np.zeros(N_ROWS)),
        ValueError,
        "[Ss]ample.weights? must (contain|have) at least one (non-zero|positive)",
    ),
    Case("weights-strings", (X, Y, ["a"] * N_ROWS), ValueError, NOT_NUMBERS),
    Case("weights-complex", (X, Y, 1j * np.ones(N_ROWS)), ValueError, "Complex data not supported"),
    Case("weight-zero", (X, Y, 0.0), ValueError, "[Ss]ample.weights? must .*at least one"),
    Case("weight-negative", (X, Y, -1.0), ValueError, "[Nn]egative values .*sample_weight"),
    Case("weight-nan", (X, Y, np.nan), ValueError, "sample_weight.* NaN"),
    Case("weight-infinite", (X, Y, np.inf), ValueError, "sample_weight.* infinity"),
]


@pytest.mark.parametrize(("maker", "case"), as_parameters(TRAINING_DATA, BOTH))
def test_bad_training_data_are_refused_and_change_nothing(maker, case):
    model = maker()
    with refused(case):
        model.fit(*case.act)
    assert not any(attribute.endswith("_") for attribute in vars(model))

    model = fitted(maker)
    before, predictions = contents(model), model.predict(X)
    with refused(case):
        model.fit(*case.act)
    assert contents(model) == before
    np.testing.assert_array_equal(model.predict(X), predictions)


def test_warm_start_on_another_number_of_features_names_warm_start():
    model = ParametricNWRegressor(warm_start=True).fit(X, Y)
    before = contents(model)
    with pytest.raises(ValueError, match=r"warm_start.*2.*3|warm_start.*3.*2"):
        model.fit(np.column_stack([X, X[:, 0] ** 2]), Y)
    assert contents(model) == before


# --- queries: `act` is X ---

QUERIES = [
    Case("nan", with_value(X, np.nan), ValueError, "Input X contains NaN"),
    Case("infinite", with_value(X, np.inf), ValueError, "Input X contains infinity"),
    Case("too-few-features", X[:, :1], ValueError, r"X has 1 features, but \w+ is expecting 2"),
    Case("too-many-features", np.ones((3, 3)), ValueError, r"X has 3 features, but \w+ is expe"),
    Case("1d", X[0], ValueError, r"Expected 2D array, got 1D array(.|\n)*reshape\(1, -1\)"),
    Case("number", 1.0, ValueError, "Expected 2D array, got scalar array"),
    Case("3d", X[None], ValueError, "Found array with dim 3"),
    Case("sparse", sparse.csr_array(X), TypeError, "Sparse data was passed for X"),
    Case("strings", [["a", "b"]], ValueError, NOT_NUMBERS),
    Case("complex", X * 1j, ValueError, "Complex data not supported"),
    Case("none-inside", np.array([[None, 1.0]], dtype=object), ValueError, "Input X contains NaN"),
    Case("no-rows", X[:0], ValueError, r"Found array with 0 sample\(s\)"),
]

NAMED_QUERIES = [
    Case(
        "swapped-names",
        pd.DataFrame(X, columns=NAMES[::-1]),
        ValueError,
        r"feature names should match(.|\n)*same order",
    ),
    Case(
        "renamed",
        pd.DataFrame(X, columns=["width", "depth"]),
        ValueError,
        r"feature names should match(.|\n)*unseen at fit time:\n- depth(.|\n)*missing:\n- height",
    ),
    Case(
        "missing-name",
        pd.DataFrame(X[:, :1], columns=NAMES[:1]),
        ValueError,
        r"feature names should match(.|\n)*missing:\n- height",
    ),
]


def query(model, method, rows):
    if method == "score":
        return model.score(rows, np.zeros(np.shape(rows)[0] if np.ndim(rows) else 1))
    return getattr(model, method)(rows)


QUERY_METHODS = ("predict", "attention_weights", "effective_neighbors", "score", "transform")


@pytest.mark.parametrize(
    ("maker", "case"), as_parameters(QUERIES, BOTH) + as_parameters(NAMED_QUERIES, BOTH)
)
def test_bad_queries_are_refused_and_change_nothing(maker, case):
    model = fitted(maker, NAMES if isinstance(case.act, pd.DataFrame) else None)
    before = contents(model)
    for method in QUERY_METHODS:
        if hasattr(model, method):
            with refused(case):
                query(model, method, case.act)
    assert contents(model) == before


@pytest.mark.parametrize("maker", BOTH)
def test_queries_without_names_are_warned_about(maker):
    model = fitted(maker, NAMES)
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        model.predict(X)


# --- calls on a fitted estimator: `act` is done to it ---

FAR = np.full((3, N_FEATURES), 100.0)


def with_top_k(top_k, *rows):
    return lambda model: model.attention_weights(*rows, top_k=top_k)


def within_memory(megabytes, ask):
    def act(model):
        with sklearn.config_context(working_memory=megabytes):
            return ask(model)

    return act


TOP_K = r"^top_k must be an integer between 1 and the number of training rows, 12; got "
OVER_MEMORY = (
    r"^attention_weights would be a 1000 x 12 matrix \(96\.0 kB\), over the working memory of "
    r"0\.0625 MiB; ask for top_k=\.\.\. or raise sklearn\.set_config\(working_memory=\.\.\.\)\.$"
)

CALLS = [
    Case("top_k-too-large", with_top_k(N_ROWS + 1, X), ValueError, TOP_K + r"13\.$"),
    Case("top_k-too-large-loo", with_top_k(N_ROWS + 1), ValueError, TOP_K + r"13\.$"),
    Case("top_k-zero", with_top_k(0, X), ValueError, TOP_K + r"0\.$"),
    Case("top_k-negative", with_top_k(-1, X), ValueError, TOP_K + r"-1\.$"),
    Case("top_k-float", with_top_k(2.0, X), ValueError, TOP_K + r"2\.0\.$"),
    Case("top_k-bool", with_top_k(True, X), ValueError, TOP_K + r"True\.$"),
    Case("top_k-string", with_top_k("all", X), ValueError, TOP_K + r"'all'\.$"),
    Case("top_k-nan", with_top_k(np.nan, X), ValueError, TOP_K + r"nan\.$"),
    Case("top_k-list", with_top_k([3], X), ValueError, TOP_K + r"\[3\]\.$"),
    Case(
        "matrix-over-memory",
        within_memory(1 / 16, lambda model: model.attention_weights(np.ones((1000, N_FEATURES)))),
        ValueError,
        OVER_MEMORY,
    ),
    Case(
        "loo-matrix-over-memory",
        within_memory(0, lambda model: model.attention_weights()),
        ValueError,
        r"would be a 12 x 12 matrix \(1\.2 kB\), over the working memory of 0 MiB; ask for top_k=",
    ),
    Case(
        "property-over-memory",
        within_memory(0, lambda model: model.attention_weights_),
        AttributeError,
        r"would be a 12 x 12 matrix \(1\.2 kB\), over the working memory of 0 MiB; ask for top_k=",
    ),
    Case("score-without-targets", lambda model: model.score(X, Y[:-1]), ValueError, "inconsistent"),
    Case(
        "score-on-nan",
        lambda model: model.score(X, with_value(Y, np.nan)),
        ValueError,
        "contains NaN",
    ),
    Case("top_k-by-position", lambda model: model.attention_weights(X, 3), TypeError, "positional"),
]


@pytest.mark.parametrize(("maker", "case"), as_parameters(CALLS, BOTH))
def test_bad_calls_are_refused_and_change_nothing(maker, case):
    model = fitted(maker)
    before = contents(model)
    with refused(case):
        case.act(model)
    assert contents(model) == before


def test_attention_property_above_its_limit_names_the_way_out():
    rows = np.arange(2001.0)[:, None]
    model = NadarayaWatsonRegressor(bandwidth=1.0).fit(rows, rows[:, 0])
    with pytest.raises(
        AttributeError, match=r"at most 2000 training rows; got 2001\. .*top_k=\.\.\."
    ):
        _ = model.attention_weights_
    assert not hasattr(model, "attention_weights_")


NOBODY_IN_REACH = (
    r"^{n} of {m} queries have no training row within the kernel's support; use a larger "
    r"bandwidth, .*or another empty_neighborhood\.$"
)

EMPTY = [
    Case("predict", lambda model: model.predict(FAR), ValueError, NOBODY_IN_REACH.format(n=3, m=3)),
    Case(
        "attention_weights",
        lambda model: model.attention_weights(FAR),
        ValueError,
        NOBODY_IN_REACH.format(n=3, m=3),
    ),
    Case(
        "top-attention",
        lambda model: model.attention_weights(FAR, top_k=2),
        ValueError,
        NOBODY_IN_REACH.format(n=3, m=3),
    ),
    Case(
        "counts-over-all-blocks",
        within_memory(0, lambda model: model.attention_weights(FAR, top_k=2)),
        ValueError,
        NOBODY_IN_REACH.format(n=3, m=3),
    ),
    Case(
        "predict_loo",
        lambda model: model.predict_loo(),
        ValueError,
        NOBODY_IN_REACH.format(n=r"\d+", m=N_ROWS + 1),
    ),
    Case(
        "loo-attention",
        lambda model: model.attention_weights(),
        ValueError,
        NOBODY_IN_REACH.format(n=r"\d+", m=N_ROWS + 1),
    ),
]


@pytest.mark.parametrize(("maker", "case"), as_parameters(EMPTY, BOTH))
def test_empty_neighborhoods_are_refused_on_request(maker, case):
    model = maker().set_params(kernel="tophat", bandwidth=1.0, empty_neighborhood="raise")
    with tuning.override(REFINEMENT_PAIRS=1e4):  # a short search, where it is one
        model.fit(np.vstack([X, -FAR[:1]]), np.append(Y, 0.0))
    before = contents(model)
    with refused(case):
        case.act(model)
    assert contents(model) == before


# --- unfitted ---


@pytest.mark.parametrize("maker", BOTH)
@pytest.mark.parametrize(
    "act",
    [
        pytest.param(lambda model: model.predict(X), id="predict"),
        pytest.param(lambda model: model.predict_loo(), id="predict_loo"),
        pytest.param(lambda model: model.attention_weights(X), id="attention_weights"),
        pytest.param(lambda model: model.attention_weights(), id="loo-attention_weights"),
        pytest.param(lambda model: model.attention_weights(X, top_k=2), id="top-attention"),
        pytest.param(lambda model: model.attention_weights_, id="attention_weights_"),
        pytest.param(lambda model: model.effective_neighbors(X), id="effective_neighbors"),
        pytest.param(lambda model: model.score(X, Y), id="score"),
    ],
)
def test_unfitted_use_is_refused(maker, act):
    model = maker()
    before = contents(model)
    with pytest.raises(NotFittedError, match=r"instance is not fitted yet\. Call 'fit'"):
        act(model)
    assert contents(model) == before


def test_unfitted_transform_is_refused():
    with pytest.raises(NotFittedError, match="instance is not fitted yet"):
        parametric().transform(X)


# --- attention_pooling: `act` replaces arguments ---

TENSORS = {
    "queries": torch.rand(3, 2, generator=torch.Generator().manual_seed(0)),
    "keys": torch.rand(4, 2, generator=torch.Generator().manual_seed(1)),
    "values": torch.rand(4, 1, generator=torch.Generator().manual_seed(2)),
}
QUERY, KEY, VALUE = TENSORS.values()


def pooling_case(id, message, error=ValueError, **arguments):
    return Case(id, arguments, error, message)


NOT_FLOATING = (
    r" must be a float32 or float64 tensor \(or a float16 or bfloat16 one\) of shape "
    r"\(..., rows, columns\); got "
)
ONE_WEIGHT_PER_KEY = r"^weights must be .*4.*"

POOLING = [
    pooling_case("queries-numpy", "^queries" + NOT_FLOATING, queries=QUERY.numpy()),
    pooling_case("queries-list", "^queries" + NOT_FLOATING, queries=QUERY.tolist()),
    pooling_case("queries-1d", "^queries" + NOT_FLOATING, queries=QUERY[0]),
    pooling_case("values-integer", "^values" + NOT_FLOATING + ".*int64", values=VALUE.long()),
    pooling_case(
        "values-complex", "^values" + NOT_FLOATING + ".*complex", values=VALUE.to(torch.complex64)
    ),
    pooling_case("keys-1d", "^keys" + NOT_FLOATING, keys=KEY[0]),
    pooling_case("two-dtypes", r"one dtype; got .*float64.*float32", queries=QUERY.double()),
    pooling_case("half-and-full-precision", r"one dtype; got .*float16", queries=QUERY.half()),
    pooling_case(
        "features-differ", "queries have 1 features but keys have 2", queries=QUERY[:, :1]
    ),
    pooling_case("too-few-values", r"got 3 values and 4 keys\.$", values=VALUE[:3]),
    pooling_case(
        "no-keys",
        r"^keys must have at least one row and one column; got shape \(0, ",
        keys=KEY[:0],
        values=VALUE[:0],
    ),
    pooling_case(
        "no-features",
        r"^queries must have at least one column; got shape",
        queries=QUERY[:, :0],
        keys=KEY[:, :0],
    ),
    pooling_case(
        "batches-differ",
        r"batch",
        queries=QUERY.expand(2, 3, 2),
        keys=KEY.expand(3, 4, 2),
    ),
    pooling_case("weights-too-short", ONE_WEIGHT_PER_KEY, weights=torch.ones(3)),
    pooling_case("weights-numpy", ONE_WEIGHT_PER_KEY, weights=np.ones(4)),
    pooling_case("weights-number", ONE_WEIGHT_PER_KEY, weights=torch.tensor(1.0)),
    pooling_case(
        "weights-of-another-batch",
        r"^The batch dimensions of queries, keys, values and weights must broadcast; got .*\(3,\)",
        queries=QUERY.expand(2, -1, -1),
        weights=torch.ones(3, 4),
    ),
    pooling_case("weights-per-query", r"^The batch.*\(3,\).*mask\.$", weights=torch.ones(3, 4)),
    pooling_case("mask-of-floats", r"^mask must be a boolean.*float32", mask=torch.ones(4)),
    pooling_case("mask-too-short", r"^mask must be .*got shape \(3,\)", mask=torch.ones(3) > 0),
    pooling_case("mask-turned", r"^mask must be .*\(4, 3\)", mask=torch.ones(4, 3) > 0),
    pooling_case("mask-numpy", r"^mask must be a boolean.*ndarray", mask=np.ones((3, 4)) > 0),
    pooling_case(
        "mask-of-more-members", r"^mask must be .*\(2, 3, 4\)", mask=torch.ones(2, 3, 4) > 0
    ),
    pooling_case(
        "all-masked",
        NOBODY_IN_REACH.format(n=3, m=3),
        mask=torch.zeros(3, 4) > 0,
        empty_neighborhood="raise",
    ),
    pooling_case("is_causal-number", r"^is_causal must be True or False; got 1", is_causal=1),
    pooling_case("weights-all-zero", r"^weights must have a positive", weights=torch.zeros(4)),
    pooling_case("weights-negative", r"^weights must be finite and >= 0", weights=-torch.ones(4)),
    pooling_case(
        "weights-nan", r"^weights must be finite and >= 0", weights=torch.full((4,), torch.nan)
    ),
    pooling_case("weights-of-another-dtype", r"weights.* dtype", weights=torch.ones(4).double()),
    pooling_case("bandwidth-zero", NOT_POSITIVE + r"0\.0\.$", bandwidth=0),
    pooling_case("bandwidth-negative", NOT_POSITIVE + r"-1\.0\.$", bandwidth=-1.0),
    pooling_case("bandwidth-nan", NOT_POSITIVE + r"nan\.$", bandwidth=np.nan),
    pooling_case("bandwidth-infinite", NOT_POSITIVE + r"inf\.$", bandwidth=np.inf),
    pooling_case("bandwidth-too-long", r"^bandwidth must .* 2 .*\(3,\)", bandwidth=torch.ones(3)),
    pooling_case("bandwidth-2d", r"^bandwidth must .*\(1, 2\)", bandwidth=torch.ones(1, 2)),
    pooling_case("bandwidth-name", r"^bandwidth must be .*'scott'", bandwidth="scott"),
    pooling_case("bandwidth-none", r"^bandwidth must be .*None", bandwidth=None),
    pooling_case("bandwidth-complex", r"^bandwidth must be .*1j", bandwidth=1j),
    pooling_case("kernel-unknown", r"^kernel must be one of .*; got 'gauss'\.$", kernel="gauss"),
    pooling_case("kernel-none", r"^kernel must be one of .*; got None\.$", kernel=None),
    pooling_case("kernel-list", r"^kernel must be one of .*; got \['gau", kernel=["gaussian"]),
    pooling_case("kernel-of-wrong-shape", CALLABLE_KERNEL, kernel=kernel_of_wrong_shape),
    pooling_case("kernel-below-zero", CALLABLE_KERNEL, kernel=kernel_below_zero),
    pooling_case("algorithm-unknown", r"^algorithm must be 'auto' or .*'fast'", algorithm="fast"),
    pooling_case("degree", r"^degree must be an integer from 0 .* to 3; got -1", degree=-1),
    pooling_case(
        "degree-causal",
        r"^degree=1 goes with a mask .*; got is_causal=True",
        degree=1,
        is_causal=True,
    ),
    pooling_case("rtol-zero", r"^rtol must be a number between 0 and 1; got 0", rtol=0),
    pooling_case("algorithm-list", r"^algorithm must be 'auto' or ", algorithm=["dense"]),
    pooling_case(
        "policy-unknown", r"^empty_neighborhood must be one of", empty_neighborhood="closest"
    ),
    pooling_case("leave-one-out", r"as many queries as keys; got 3 and 4\.$", leave_one_out=True),
    pooling_case(
        "nobody-in-reach",
        NOBODY_IN_REACH.format(n=3, m=3),
        queries=QUERY + 100,
        kernel="tophat",
        empty_neighborhood="raise",
    ),
]


@pytest.mark.parametrize("case", as_parameters(POOLING))
def test_bad_pooling_is_refused(case):
    with refused(case):
        attention_pooling(**(TENSORS | case.act))


# --- datasets ---

DATASETS: list[Case] = [
    Case("curve-negative", lambda: attention_curve(-1.0), ValueError, r"x must be .*; got -1\.0"),
    Case("curve-string", lambda: attention_curve("x"), ValueError, NOT_NUMBERS),
    Case("no-rows", lambda: make_attention_curve(0), ValueError, r"n_samples must .*; got 0\.$"),
    Case("rows-float", lambda: make_attention_curve(5.0), TypeError, r"n_samples must .*; got 5"),
    Case(
        "noise-negative", lambda: make_attention_curve(noise=-1), ValueError, r"noise must .*got -1"
    ),
    Case("noise-by-position", lambda: make_attention_curve(5, 0.1), TypeError, "positional"),
]


@pytest.mark.parametrize("case", as_parameters(DATASETS))
def test_bad_arguments_of_the_datasets_are_refused(case):
    act: Callable = case.act
    with refused(case):
        act()
