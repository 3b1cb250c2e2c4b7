"""Gaussian sums by non-uniform FFT against the explicit matrix."""

import math
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from sknw.sums.algorithms import fourier
from sknw.sums.algorithms.fourier import FourierSums, Grid
from sknw.support import tuning

pytest.importorskip("finufft")

BYTES = 2**28
TIGHT = 2**27  # makes a point at 1e6 too far for the box
CARE = 1.2  # a single key can meet the tolerances of all parts of the error at once


def matrix_sums(queries, keys, columns):
    sq = np.square(queries[:, None] - keys).sum(axis=-1)
    return columns @ np.exp(-sq / 2).T


def relative_error(sums, queries, keys, columns):
    scale = np.abs(columns).sum(axis=1).max()
    return np.abs(sums - matrix_sums(queries, keys, columns)).max(initial=0.0) / scale


def make_columns(k, n):
    return np.random.default_rng(k).normal(size=(k, n))


def uniform(rng, n, d):
    return rng.uniform(0, 12, size=(n, d))


def gaussian(rng, n, d):
    return rng.normal(size=(n, d)) * 3


def clustered(rng, n, d):
    return rng.normal(size=(n, d)) * 1e-3 + rng.integers(0, 3, size=(n, 1)) * 7


def offset(rng, n, d):
    return uniform(rng, n, d) + 1e5


def duplicated(rng, n, d):
    return np.repeat(gaussian(rng, 10, d), n // 10, axis=0)


def with_outlier(rng, n, d):
    points = gaussian(rng, n, d)
    points[n // 2] = 1e6
    return points


def cauchy(rng, n, d):
    return rng.standard_cauchy(size=(n, d))


COMPACT = [uniform, gaussian, clustered, offset, duplicated]
SPREAD = [with_outlier, cauchy]
over_dimensions = pytest.mark.parametrize("d", [1, 2, 3])
over_tolerances = pytest.mark.parametrize("tolerance", [1e-4, 1e-6, 1e-9, 1e-12, 1e-14])


# --- accuracy ------------------------------------------------------------------------------------


@over_dimensions
@over_tolerances
@pytest.mark.parametrize("make", COMPACT)
def test_sums_are_those_of_the_matrix(make, tolerance, d):
    rng = np.random.default_rng(d)
    keys, queries = make(rng, 300, d), make(rng, 200, d)
    columns = make_columns(2, 300)
    grid = Grid.of(keys, tolerance, BYTES)
    sums, served = FourierSums.of(keys, columns, grid, 1).at(queries)
    assert grid.whole
    assert served.all()
    assert relative_error(sums, queries, keys, columns) <= tolerance


@over_dimensions
@over_tolerances
@pytest.mark.parametrize("fine", [True, False])
def test_one_key_has_the_error_of_the_tolerance(fine, tolerance, d):
    upsampling = Grid.upsampling if fine else tuning.COARSE_UPSAMPLING
    tolerance = tolerance if fine else max(tolerance, tuning.COARSE_TOLERANCE)
    rng = np.random.default_rng(d)
    key, value = rng.normal(size=(1, d)), np.ones((1, 1))
    grid = replace(Grid.of(key, tolerance, BYTES), upsampling=upsampling)
    queries = key + rng.uniform(-1.5, 1.5, size=(2000, d)) * grid.cutoff
    sums, served = FourierSums.of(key, value, grid, 1).at(queries)
    assert served.all()
    assert relative_error(sums, queries, key, value) <= CARE * tolerance


@over_dimensions
@pytest.mark.parametrize("make", SPREAD)
def test_a_box_around_the_bulk_serves_the_queries_inside(make, d):
    rng = np.random.default_rng(d)
    keys, queries = make(rng, 2000, d), make(rng, 300, d)
    columns = make_columns(2, 2000)
    grid = Grid.of(keys, 1e-9, TIGHT)
    sums, served = FourierSums.of(keys, columns, grid, 1).at(queries)
    inside = ((queries >= grid.low) & (queries <= grid.high)).all(axis=1)
    assert grid.whole == (make is cauchy and d == 1)
    np.testing.assert_array_equal(served, inside | grid.whole)
    assert served.mean() > 0.8
    assert not sums[:, ~served].any()
    assert relative_error(sums[:, served], queries[served], keys, columns) <= 1e-9


@over_dimensions
def test_no_images_are_seen_at_any_distance(d):
    keys, columns = np.vstack([np.zeros(d), np.full(d, 5.0)]), np.ones((1, 2))
    grid = Grid.of(keys, 1e-9, BYTES)
    line = np.linspace(-4, 4, 1001)[:, None] * grid.period
    queries = np.vstack([line, line * np.eye(d)[0] + 2.5, [[1e100] * d, [-1e100] * d]])
    sums, served = FourierSums.of(keys, columns, grid, 1).at(queries)
    assert served.all()
    assert relative_error(sums, queries, keys, columns) <= 1e-9
    assert not sums[:, -2:].any()


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_any_number_of_columns(k):
    keys = gaussian(np.random.default_rng(0), 100, 2)
    columns = make_columns(k, 100)
    columns[k // 2 or 1 :: 2] = 0
    grid = Grid.of(keys, 1e-12, BYTES)
    state = FourierSums.of(keys, columns, grid, 1)
    sums, _ = state.at(keys[:50] + 0.3)
    assert sums.shape == (k, 50)
    assert len(state.series) == math.ceil(k / 2)
    assert relative_error(sums, keys[:50] + 0.3, keys, columns) <= 1e-12


def test_keys_without_values_do_not_count_wherever_they_are():
    keys = gaussian(np.random.default_rng(0), 100, 2)
    columns = make_columns(2, 100)
    keys[::3], columns[:, ::3] = 1e7, 0
    grid = Grid.of(keys[columns.any(axis=0)], 1e-12, BYTES)
    sums, served = FourierSums.of(keys, columns, grid, 1).at(keys)
    assert grid.whole
    assert served.all()
    assert relative_error(sums, keys, keys, columns) <= 1e-12


def test_layout_and_precision_of_the_arguments_do_not_matter():
    rng = np.random.default_rng(0)
    keys, columns = gaussian(rng, 100, 3).astype("f4"), make_columns(3, 100).astype("f4")
    grid = Grid.of(keys.astype(float), 1e-9, BYTES)
    plain = FourierSums.of(keys.astype(float), columns.astype(float), grid, 1).at(
        keys.astype(float)
    )[0]
    other = FourierSums.of(np.asfortranarray(keys), np.asfortranarray(columns), grid, 1)
    np.testing.assert_allclose(other.at(np.asfortranarray(keys))[0], plain, rtol=0, atol=1e-5)


# --- the grid ------------------------------------------------------------------------------------


def test_no_grid_where_none_fits():
    keys = uniform(np.random.default_rng(0), 1000, 3) * 100
    assert Grid.of(keys, 1e-9, BYTES) is None
    assert Grid.of(keys[:, :1], 1e-9, BYTES) is not None


def test_no_grid_where_rounding_exceeds_the_tolerance():
    """Clusters so far apart that the period's last digit shows in the weights."""
    keys = gaussian(np.random.default_rng(0), 1000, 1)
    keys[::2] += 1e6
    assert Grid.of(keys, 1e-13, 2**30) is None
    assert Grid.of(keys, 1e-9, 2**30).whole
    assert Grid.of(np.linspace(0, 1e6, 10**5)[:, None], 1e-13, 2**30).whole


def test_few_keys_take_the_coarse_grid():
    keys = uniform(np.random.default_rng(0), 20000, 2)
    assert Grid.of(keys, 1e-9, BYTES).upsampling == Grid.upsampling
    assert Grid.of(keys[:100], 1e-9, BYTES).upsampling == tuning.COARSE_UPSAMPLING
    assert Grid.of(keys[:100], 1e-14, BYTES).upsampling == Grid.upsampling


@pytest.mark.parametrize("make", [uniform, gaussian])
def test_a_frugal_grid_holds_all_keys_in_less_memory(make):
    rng = np.random.default_rng(0)
    keys, columns = make(rng, 20000, 3), np.ones((2, 20000))
    coarse = replace(Grid.of(keys, 1e-12, 2**32), upsampling=tuning.COARSE_UPSAMPLING)
    most = int(0.75 * coarse.n_bytes)
    bulk, low_upsampling = (
        Grid.of(keys, 1e-12, most),
        Grid.of(keys, 1e-12, most, low_upsampling=True),
    )
    assert bulk is None or not bulk.whole
    assert low_upsampling.whole
    assert low_upsampling.has_low_upsampling
    assert low_upsampling.n_bytes <= most
    np.testing.assert_array_equal(low_upsampling.period, coarse.period)
    queries = keys[:200] + 0.1
    sums, served = FourierSums.of(keys, columns, low_upsampling, 1).at(queries)
    exact = matrix_sums(queries, keys, columns)
    assert served.all()
    assert np.abs(sums - exact).max() <= tuning.LOW_UPSAMPLING_TOLERANCE * exact.max()


def test_a_frugal_grid_is_taken_only_where_no_better_one_fits():
    keys = gaussian(np.random.default_rng(0), 1000, 3)
    assert not Grid.of(keys, 1e-12, BYTES, low_upsampling=True).has_low_upsampling


def test_a_large_tolerance_is_kept_on_the_sparest_grid():
    keys, columns = 2 * uniform(np.random.default_rng(0), 2000, 3), np.ones((1, 2000))
    coarse = replace(Grid.of(keys, 1e-9, BYTES), upsampling=tuning.COARSE_UPSAMPLING)
    grid = Grid.of(keys, 1e-9, int(0.8 * coarse.n_bytes))
    assert grid.upsampling == tuning.LOW_UPSAMPLING
    assert grid.whole
    assert not grid.has_low_upsampling
    sums, _ = FourierSums.of(keys, columns, grid, 1).at(keys)
    assert relative_error(sums, keys, keys, columns) <= 1e-9


# --- blocks and threads --------------------------------------------------------------------------


@pytest.fixture
def small_blocks():
    with tuning.override(ROWS_OF_A_TRANSFORM=100, FEWEST_ROWS_OF_A_TRANSFORM=50, LARGE_GRID=1):
        yield


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("n_threads", [1, 2, 3, 7])
@pytest.mark.parametrize("make", [uniform, with_outlier])
def test_blocks_and_threads_do_not_change_the_sums(make, n_threads):
    rng = np.random.default_rng(0)
    keys, queries, columns = make(rng, 2003, 1), make(rng, 1001, 1), make_columns(3, 2003)
    grid = Grid.of(keys, 1e-9, 2**22)
    sums, served = FourierSums.of(keys, columns, grid, n_threads).at(queries)
    assert relative_error(sums[:, served], queries[served], keys, columns) <= 1e-9
    assert FourierSums.of(keys, columns, grid, n_threads).at(queries[:0])[0].shape == (3, 0)


def test_memory_limits_the_threads_and_the_blocks():
    grid = Grid.of(uniform(np.random.default_rng(0), 1000, 2), 1e-9, BYTES)
    seen = []

    def task(blocks, n_threads):
        seen.append((n_threads, max(rows.stop - rows.start for rows in blocks)))

    tight = replace(grid, max_bytes=2 * (grid.n_bytes + 2**16 * grid._row_bytes))
    tight.in_threads(task, 2**20, 8)
    assert len(seen) == 2
    assert max(rows for _, rows in seen) <= 2**16


def test_the_same_call_gives_the_same_bits_alone_and_side_by_side():
    keys = uniform(np.random.default_rng(0), 50000, 2)
    columns = make_columns(2, 50000)
    grid = Grid.of(keys, 1e-9, BYTES)
    state = FourierSums.of(keys, columns, grid, 2)
    sums = state.at(keys)[0]

    def again(_):
        return FourierSums.of(keys, columns, grid, 2).at(keys)[0]

    with ThreadPoolExecutor(3) as pool:
        for other in [pickle.loads(pickle.dumps(state)).at(keys)[0], *pool.map(again, range(3))]:
            np.testing.assert_array_equal(other, sums)


def test_nothing_is_said_and_no_setting_touched(capfd):
    threads = torch.get_num_threads()
    keys = gaussian(np.random.default_rng(0), 1000, 3)
    for tolerance in (1e-4, 1e-12, 1e-14):
        grid = Grid.of(keys, tolerance, BYTES)
        FourierSums.of(keys, make_columns(2, 1000), grid, threads + 3).at(keys)
    assert capfd.readouterr() == ("", "")
    assert torch.get_num_threads() == threads


def test_finufft_is_available():
    assert fourier.available()
