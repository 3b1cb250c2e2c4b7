"""Frames, tensors and arrays of every make, in and out."""

import random

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from contract import BRIEF, EXPECTED_WARNINGS, MODELS, NAMES, make_data, over
from sklearn.base import clone
from sklearn.model_selection import (
    cross_val_score,
)
from sklearn.preprocessing import StandardScaler

from sknw import NadarayaWatsonRegressor, ParametricNWRegressor

pytestmark = EXPECTED_WARNINGS


# --- frames --------------------------------------------------------------------------------------

FRAMES = {
    "pandas": (lambda X: pd.DataFrame(X, columns=NAMES), pd.Series),
    "pandas-nullable": (
        lambda X: pd.DataFrame(X, columns=NAMES, dtype="Float64"),
        lambda y: pd.Series(y, dtype="Float64"),
    ),
    "pandas-shuffled-index": (
        lambda X: pd.DataFrame(X, columns=NAMES, index=np.arange(len(X))[::-1]),
        pd.Series,
    ),
    "polars": (lambda X: pl.DataFrame(X, schema=NAMES), pl.Series),
}


def frame_with_names(container, X):
    """A frame whose names this scikit-learn reads (1.6 no longer can from polars 2)."""
    frame = FRAMES[container][0](X)
    if not hasattr(StandardScaler().fit(frame), "feature_names_in_"):
        pytest.skip(f"this scikit-learn does not read the names of {container}")
    return frame


@over(BRIEF)
@pytest.mark.parametrize("container", FRAMES)
def test_frames_equal_arrays(model, container, data, queries):
    frame, series = FRAMES[container]
    X, y = data
    weights = np.arange(len(X)) % 3
    fitted = clone(model).fit(frame(X), series(y), sample_weight=series(weights.astype(float)))
    plain = clone(model).fit(X, y, sample_weight=weights)
    np.testing.assert_array_equal(fitted.predict(frame(queries)), plain.predict(queries))
    assert fitted.score(frame(X), series(y)) == plain.score(X, y)


@over(BRIEF)
@pytest.mark.parametrize("container", FRAMES)
def test_names_of_columns_are_kept(model, container, data):
    fitted = clone(model).fit(frame_with_names(container, data[0]), data[1])
    assert list(fitted.feature_names_in_) == NAMES


@over(BRIEF)
@pytest.mark.parametrize("container", ["pandas", "polars"])
def test_columns_in_another_order_are_refused(model, container, data, queries):
    fitted = clone(model).fit(frame_with_names(container, data[0]), data[1])
    reordered = frame_with_names(container, queries)[NAMES[::-1]]
    for method in ("predict", "effective_neighbors", "attention_weights"):
        with pytest.raises(ValueError, match="must be in the same order as they were in fit"):
            getattr(fitted, method)(reordered)


@over(BRIEF)
def test_names_on_one_side_only_are_warned_about(model, data, queries):
    frame = FRAMES["pandas"][0]
    named, nameless = clone(model).fit(frame(data[0]), data[1]), clone(model).fit(*data)
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        named.predict(queries)
    with pytest.warns(UserWarning, match="fitted without feature names"):
        nameless.predict(frame(queries))


@over(BRIEF)
def test_a_frame_of_targets_gives_one_column_per_output(model, queries):
    X, y = make_data(n_outputs=2)
    fitted = clone(model).fit(X, pd.DataFrame(y, columns=["first", "second"]))
    np.testing.assert_array_equal(fitted.predict(queries), clone(model).fit(X, y).predict(queries))


# --- arrays --------------------------------------------------------------------------------------


def _read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def _memmap(a):
    """A read-only memory map, as joblib hands large arrays to its workers."""
    buffer = np.memmap(_memmap.folder / f"{random.getrandbits(64):x}", a.dtype, "w+", shape=a.shape)
    buffer[...] = a
    buffer.flush()
    return np.memmap(buffer.filename, a.dtype, "r", shape=a.shape)


@pytest.fixture(autouse=True, scope="module")
def _folder_of_memory_maps(tmp_path_factory):
    _memmap.folder = tmp_path_factory.mktemp("memmap")


def _every_other(a):
    """A view with gaps between rows and, in two dimensions, columns."""
    wide = np.full(tuple(2 * size for size in a.shape), 7, dtype=a.dtype)
    view = wide[tuple(slice(None, None, 2) for _ in a.shape)]
    view[...] = a
    return view


# Each turns an array of small whole numbers into another array of the same values.
LAYOUTS = {
    "read-only": _read_only,
    "fortran": np.asfortranarray,
    "negative-strides": lambda a: a[::-1].copy()[::-1],
    "negative-strides-everywhere": lambda a: np.flip(np.flip(a).copy()),
    "gaps": _every_other,
    "big-endian": lambda a: a.astype(">f8"),
    "big-endian-read-only": lambda a: _read_only(a.astype(">f8")),
    "big-endian-integer": lambda a: a.astype(">i4"),
    "memmap": _memmap,
    "list": lambda a: a.tolist(),
    "tuple": lambda a: tuple(a.tolist()),
    "int8": lambda a: a.astype(np.int8),
    "int64": lambda a: a.astype(np.int64),
    "uint8": lambda a: a.astype(np.uint8),
    "float16": lambda a: a.astype(np.float16),
    "longdouble": lambda a: a.astype(np.longdouble),
    "object": lambda a: a.astype(object),
    "object-of-integers": lambda a: a.astype(int).astype(object),
    "torch-float64": torch.tensor,
    "torch-int64": lambda a: torch.tensor(a.astype(np.int64)),
    "torch-float16": lambda a: torch.tensor(a.astype(np.float16)),
    "torch-bfloat16": lambda a: torch.tensor(a).to(torch.bfloat16),
    "torch-gradient": lambda a: torch.tensor(a, requires_grad=True),
    "torch-parameter": lambda a: torch.nn.Parameter(torch.tensor(a)),
    "torch-gaps": lambda a: torch.tensor(np.repeat(a, 2, axis=0))[::2],
    "torch-inference": lambda a: _inference_tensor(a),
}


def _inference_tensor(a):
    with torch.inference_mode():
        return torch.tensor(a)


def whole_numbers(n=40):
    rng = np.random.default_rng(0)
    X = rng.integers(0, 6, size=(n, 3)).astype(float)
    return X, X[:, 0] + 2 * X[:, 1], rng.integers(0, 3, size=n).astype(float)


WHOLE_NUMBER_MODELS = {
    "fixed": NadarayaWatsonRegressor(bandwidth=1.0),
    "trained": ParametricNWRegressor(n_starts=1, max_iter=10),
}


@over(WHOLE_NUMBER_MODELS)
@over(LAYOUTS, "layout")
def test_the_layout_and_type_of_arrays_do_not_matter(model, layout):
    X, y, weights = whole_numbers()
    plain = clone(model).fit(X, y, sample_weight=weights)
    arrays = [layout(a) for a in (X, y, weights)]
    fitted = clone(model).fit(*arrays)
    np.testing.assert_allclose(fitted.predict(arrays[0]), plain.predict(X), rtol=1e-12)
    np.testing.assert_allclose(
        fitted.effective_neighbors(arrays[0]), plain.effective_neighbors(X), rtol=1e-12
    )
    np.testing.assert_allclose(
        fitted.attention_weights(arrays[0]), plain.attention_weights(X), rtol=1e-12, atol=1e-15
    )
    assert fitted.score(*arrays) == pytest.approx(plain.score(X, y, weights), rel=1e-12)
    # and they are left as they were
    for found, values in zip(arrays, (X, y, weights), strict=True):
        found = found.detach().to(torch.float64) if torch.is_tensor(found) else found
        np.testing.assert_array_equal(np.asarray(found).astype(float), values)


@over(WHOLE_NUMBER_MODELS)
@pytest.mark.parametrize("convert", [np.asarray, torch.tensor], ids=["numpy", "torch"])
def test_boolean_arrays_are_zeros_and_ones(model, convert):
    X, y, weights = (a > np.median(a) for a in whole_numbers())
    fitted = clone(model).fit(convert(X), convert(y), sample_weight=convert(weights))
    plain = clone(model).fit(X.astype(float), y.astype(float), sample_weight=weights.astype(float))
    np.testing.assert_array_equal(fitted.predict(convert(X)), plain.predict(X.astype(float)))


@over(BRIEF)
@pytest.mark.parametrize("convert", [np.asarray, torch.tensor], ids=["numpy", "torch"])
def test_float32_in_is_float32_out(model, convert, queries):
    X, y = make_data(dtype=np.float32)
    fitted = clone(model).fit(convert(X), convert(y.astype(np.float32)))
    predicted = fitted.predict(convert(queries.astype(np.float32)))
    assert predicted.dtype == np.float32
    assert fitted.predict(queries).dtype == np.float32  # the precision of y
    reference = clone(model).fit(X.astype(float), y.astype(np.float32).astype(float))
    # a search ends where float32 cannot tell losses apart
    rtol = 1e-4 if model is BRIEF["fixed"] else 2e-2
    np.testing.assert_allclose(
        predicted, reference.predict(queries.astype(np.float32)), rtol=rtol, atol=rtol
    )


@over(BRIEF)
@pytest.mark.parametrize("shape", [(-1,), (-1, 1), (-1, 2)], ids=["flat", "column", "two"])
def test_predictions_have_the_shape_of_y(model, shape, data, queries):
    X, y = data
    y = np.repeat(y, abs(shape[-1])).reshape(len(X), -1) if len(shape) == 2 else y
    fitted = clone(model).fit(X, y)
    assert fitted.predict(queries).shape == (len(queries), *y.shape[1:])
    assert fitted.predict_loo().shape == y.shape


def test_cross_validation_takes_tensors(data):
    X, y = data
    expected = cross_val_score(MODELS["fixed"], X, y, cv=3)
    found = cross_val_score(MODELS["fixed"], torch.tensor(X), torch.tensor(y), cv=3)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
