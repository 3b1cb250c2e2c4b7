"""From what a user passes to columns of numbers: containers, names, dates, categories, weights."""

from dataclasses import replace
from numbers import Real

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_array, check_X_y

from sknw.data.arrays import input_array
from sknw.data.features import Features
from sknw.data.tables import naming_columns, readable, refuse_dates
from sknw.support.compat import check_sample_weight, validate_data

_FLOATS = [np.float64, np.float32]


def read(**arguments) -> tuple:
    """Return arguments in containers that the validation knows; refuse dates."""
    found = tuple(readable(name, input_array(values)) for name, values in arguments.items())
    for name, values in zip(arguments, found, strict=True):
        refuse_dates(name, values)
    return found


def validate_training(
    estimator: BaseEstimator, X, y, sample_weight, *, takes_codes: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Features]:
    """Return columns (n, n_columns), targets, weights and features, checked.

    Parameters
    ----------
    estimator : BaseEstimator
        Gets the attributes that scikit-learn's validation sets.
    X, y, sample_weight
        As in `fit`.
    takes_codes : bool
        Whether categories may be columns of codes; else they are blocks of columns.
    """
    if sparse.issparse(y):
        raise TypeError(
            "Sparse data was passed for y, but dense data is required. Use '.toarray()' to "
            "convert it."
        )
    X, y, sample_weight = read(X=X, y=y, sample_weight=sample_weight)
    features = Features.of(X, estimator.categorical_features)
    accept = {"dtype": _FLOATS, "multi_output": True, "y_numeric": True}
    if features is None:
        with naming_columns(X):
            X, y = validate_data(estimator, X, y, **accept)
        features = Features(X.shape[1])
    else:
        validate_data(estimator, X, skip_check_array=True)
        features = features if takes_codes else features.expanded()
        with naming_columns(X, features.is_categorical):
            numbers, y = check_X_y(
                features.numeric_part(X), y, ensure_min_features=0, estimator=estimator, **accept
            )
        X = features.columns(X, numbers)
    names = getattr(estimator, "feature_names_in_", None)
    features = replace(features, names=None if names is None else tuple(names.tolist()))
    if isinstance(sample_weight, Real):
        sample_weight = np.full(len(X), float(sample_weight))
    sample_weight = check_sample_weight(
        sample_weight, X, dtype=np.float64, ensure_non_negative=True
    )
    if not sample_weight.any():
        raise ValueError("sample_weight must have at least one positive value; got all zeros.")
    return X, y, sample_weight, features


def validate_queries(estimator: BaseEstimator, X, features: Features) -> np.ndarray:
    """Return the columns (m, n_columns) of queries of these features, checked."""
    (X,) = read(X=X)
    if not features.categories:
        with naming_columns(X):
            return validate_data(estimator, X, dtype=_FLOATS, reset=False)
    validate_data(estimator, X, skip_check_array=True, reset=False)
    with naming_columns(X, features.is_categorical):
        numbers = check_array(
            features.numeric_part(X), dtype=_FLOATS, ensure_min_features=0, estimator=estimator
        )
    return features.columns(X, numbers)
