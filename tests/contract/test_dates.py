"""Dates, durations and periods are no numbers: refused by name wherever they come in."""

import datetime
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest

from sknw import NadarayaWatsonRegressor, ParametricNWRegressor

DAYS = pd.Series(pd.date_range("2024-01-01", periods=12), name="t")
Y = np.arange(12.0)
HOLDS = r"holds dates or times \(.*\)\. Give the days as numbers.*DatetimeEncoder"

PANDAS = {
    "datetime64": DAYS,
    "seconds": DAYS.astype("datetime64[s]"),
    "zone": DAYS.dt.tz_localize("Europe/Rome"),
    "timedelta64": DAYS - DAYS[0],
    "period": DAYS.dt.to_period("M"),
    "Timestamp": DAYS.astype(object),
    "Timedelta": (DAYS - DAYS[0]).astype(object),
    "Period": DAYS.dt.to_period("D").astype(object),
    "datetime": pd.Series(list(DAYS.dt.to_pydatetime()), dtype=object),
    "date": DAYS.dt.date,
    "time": pd.Series([datetime.time(hour) for hour in range(12)], dtype=object),
    "with-gaps": DAYS.where(DAYS.index != 3),
    "one-among-numbers": pd.Series([*range(11), DAYS[0]], dtype=object),
}
POLARS = {
    "Date": pl.Series(DAYS.dt.date.tolist()),
    "Datetime": pl.Series(DAYS.tolist()),
    "Duration": pl.Series((DAYS - DAYS[0]).tolist()),
    "Time": pl.Series([datetime.time(hour) for hour in range(12)]),
    "Object": pl.Series(DAYS.tolist(), dtype=pl.Object),
}


def beside_a_number(column):
    if isinstance(column, pl.Series):
        return pl.DataFrame({"x": Y, "t": column})
    return pd.DataFrame({"x": Y, "t": column})


@pytest.mark.parametrize("column", [*PANDAS.values(), *POLARS.values()], ids=[*PANDAS, *POLARS])
def test_a_column_of_dates_is_refused_by_its_name(column):
    for categorical_features in ("from_dtype", None, ["t"], ["x"]):
        model = NadarayaWatsonRegressor(1.0, categorical_features=categorical_features)
        with pytest.raises(ValueError, match=f"^X must hold numbers or cat.*; column 't' {HOLDS}"):
            model.fit(beside_a_number(column), Y)
        assert not hasattr(model, "n_features_in_")


@pytest.mark.parametrize("column", PANDAS.values(), ids=PANDAS)
@pytest.mark.parametrize("as_array", [lambda frame: frame.to_numpy(), lambda f: f.values.tolist()])
def test_arrays_and_lists_of_dates_are_refused_by_their_index(column, as_array):
    X = as_array(beside_a_number(column))
    with pytest.raises(ValueError, match=f"^X must hold .*; column 1 {HOLDS}"):
        NadarayaWatsonRegressor(1.0).fit(X, Y)
    with pytest.raises(ValueError, match=f"^X must hold .*; column 1 {HOLDS}"):
        NadarayaWatsonRegressor(1.0, categorical_features=[0]).fit(X, Y)


@pytest.mark.parametrize("dtype", ["datetime64[ns]", "datetime64[D]", "timedelta64[s]"])
def test_arrays_of_dates_only_are_refused(dtype):
    X = np.arange(12).astype(dtype)[:, None]
    with pytest.raises(ValueError, match=f"column 0 {HOLDS}"):
        NadarayaWatsonRegressor(1.0).fit(X, Y)
    with pytest.raises(ValueError, match=f"column 0 {HOLDS}"):
        ParametricNWRegressor(max_iter=1).fit(X, Y)


@pytest.mark.parametrize("column", [*PANDAS.values(), *POLARS.values()], ids=[*PANDAS, *POLARS])
def test_dates_are_refused_as_targets_and_as_weights(column):
    X, model = Y[:, None], NadarayaWatsonRegressor(1.0)
    for values in (column, list(column)):
        with pytest.raises(ValueError, match=f"^y must hold numbers; .*{HOLDS}"):
            model.fit(X, values)
        with pytest.raises(ValueError, match=f"^sample_weight must hold numbers; .*{HOLDS}"):
            model.fit(X, Y, sample_weight=values)
    model.fit(X, Y)
    with pytest.raises(ValueError, match=f"^y must hold numbers; .*{HOLDS}"):
        model.score(X, column)
    with pytest.raises(ValueError, match=f"^y must hold numbers; column 't' {HOLDS}"):
        model.fit(X, beside_a_number(column))


@pytest.mark.parametrize("categories", [False, True])
def test_dates_are_refused_in_queries(categories):
    X = pd.DataFrame({"t": Y, "color": list("abcabcabcabc")} if categories else {"t": Y})
    model = NadarayaWatsonRegressor(1.0).fit(X, Y)
    before = model.predict(X)
    for column in PANDAS.values():
        for ask in (model.predict, model.attention_weights, model.effective_neighbors):
            with pytest.raises(ValueError, match=f"column 't' {HOLDS}"):
                ask(X.assign(t=column))
    np.testing.assert_array_equal(model.predict(X), before)


def test_the_way_out_works():
    days = (DAYS - DAYS.min()) / pd.Timedelta("1D")
    model = NadarayaWatsonRegressor(1.0).fit(days.to_frame(), Y)
    np.testing.assert_array_equal(days, np.arange(12))
    assert np.isfinite(model.predict(days.to_frame())).all()


def test_categories_made_of_dates_are_categories():
    X = pd.DataFrame({"x": Y, "t": pd.Categorical(DAYS.dt.to_period("W").dt.start_time)})
    names = X.assign(t=X["t"].astype(str))
    expected = NadarayaWatsonRegressor([1.0, 0.5]).fit(names, Y).predict(names)
    np.testing.assert_allclose(NadarayaWatsonRegressor([1.0, 0.5]).fit(X, Y).predict(X), expected)


def test_missing_dates_among_texts_are_missing_texts():
    room = pd.Series([*"abcabcabcab", pd.NaT], dtype=object)
    X = pd.DataFrame({"x": Y, "room": room})
    expected = X.assign(room=room.where(room.notna(), None))
    models = [NadarayaWatsonRegressor([1.0, 0.5]).fit(frame, Y) for frame in (X, expected)]
    np.testing.assert_array_equal(models[0].predict(X), models[1].predict(expected))


def test_ordinary_tables_pass_without_a_word():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tables = (
            Y[:, None].tolist(),
            [[1, 2.0]] * 12,
            pd.DataFrame({"x": Y}),
            pl.DataFrame({"x": Y}),
        )
        for X in tables:
            NadarayaWatsonRegressor(1.0).fit(X, Y.tolist()).predict(X)
