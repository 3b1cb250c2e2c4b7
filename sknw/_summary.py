"""The summary of a fit: its numbers, and the table that they print as."""

from dataclasses import dataclass, fields
from html import escape

import numpy as np

_WIDTH = 79
_LONGEST_NAME = 30


@dataclass(frozen=True, eq=False, repr=False)
class FitSummary:
    """What a fit amounts to.

    Parameters
    ----------
    estimator : str
        The class of the estimator.
    n_observations : int
        Number of observations.
    kernel : str
        Name of the kernel.
    degree : int
        Degree of the local polynomials.
    windows : str
        How windows are: ``"fixed"``, or by neighbours.
    feature_names : list of str
        Names of the features.
    bandwidth : ndarray of shape (n_features,)
        How far rows lie apart, in this feature alone, whose distance is one bandwidth; λ for
        categories, NaN for a metric that is not linear.
    is_categorical, is_irrelevant, is_linear : ndarray of bool of shape (n_features,)
        Which features are categories, which have no influence, and which enter linearly (as a
        polynomial of the degree that is the same everywhere).
    degrees_of_freedom, degrees_of_freedom_squared : float
        Of both kinds.
    r2, residual_variance, loo_mse : float or ndarray of shape (n_outputs,)
        Share of the variance that the fit explains, each row counted in its own prediction;
        variance of y about the fit; mean squared leave-one-out error.
    average_gradient : ndarray of shape (n_features,) or (n_features, n_outputs)
        Average marginal effects; NaN for categories.
    """

    estimator: str
    n_observations: int
    kernel: str
    degree: int
    windows: str
    feature_names: list[str]
    bandwidth: np.ndarray
    is_categorical: np.ndarray
    is_irrelevant: np.ndarray
    is_linear: np.ndarray
    degrees_of_freedom: float
    degrees_of_freedom_squared: float
    r2: float | np.ndarray
    residual_variance: float | np.ndarray
    loo_mse: float | np.ndarray
    average_gradient: np.ndarray

    @property
    def residual_standard_error(self) -> float | np.ndarray:
        """Square root of the residual variance."""
        return np.sqrt(self.residual_variance)

    def to_dict(self) -> dict:
        """Return all numbers by name."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**found, "residual_standard_error": self.residual_standard_error}

    def __str__(self) -> str:
        """Return the tables as text, at most 79 columns wide."""
        title = f"Kernel regression: {self.estimator}"
        parts = [title, "=" * len(title)]
        for table in self._tables():
            lines = _aligned(table)
            parts += [*lines, "-" * max(map(len, lines))]
        return "\n".join(parts[:-1] + self._notes())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """Return the tables as a notebook shows them."""
        parts = [f"<p>Kernel regression: {escape(self.estimator)}</p>"]
        for table in self._tables():
            rows = "".join(
                "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
                for row in table
            )
            parts.append(f"<table>{rows}</table>")
        parts += [f"<p>{escape(note)}</p>" for note in self._notes()]
        return "".join(parts)

    def _tables(self) -> list[list[list[str]]]:
        return [self._of_the_fit(), *self._of_features()]

    def _of_the_fit(self) -> list[list[str]]:
        rows = [
            ["Observations", f"{self.n_observations:,}"],
            ["Kernel", _short(self.kernel)],
            ["Degree", f"{self.degree}"],
            ["Bandwidth", self.windows],
            ["Degrees of freedom", ""],
            ["  trace", _number(self.degrees_of_freedom)],
            ["  squared", _number(self.degrees_of_freedom_squared)],
        ]
        measures = {
            "R-squared": self.r2,
            "Residual std. error": self.residual_standard_error,
            "Leave-one-out MSE": self.loo_mse,
        }
        for name, value in measures.items():
            values = np.atleast_1d(value)
            if len(values) == 1:
                rows.append([name, _number(values[0])])
                continue
            rows += [[f"{name}, y{k}", _number(value)] for k, value in enumerate(values)]
        return rows

    def _of_features(self) -> list[list[list[str]]]:
        """Return tables of the features; several outputs in as many tables as fit the width."""
        effects = self.average_gradient.reshape(len(self.feature_names), -1)
        names = ["Average effect"]
        if effects.shape[1] > 1:
            names = [f"Effect on y{k}" for k in range(effects.shape[1])]
        tables = []
        for first in range(0, len(names), 2):
            rows = [["Feature", "Bandwidth", *names[first : first + 2]]]
            for feature, name in enumerate(self.feature_names):
                of_outputs = effects[feature, first : first + 2]
                rows.append(
                    [_short(name), self._width(feature), *(_number(value) for value in of_outputs)]
                )
            tables.append(rows)
        return tables

    def _width(self, feature: int) -> str:
        if self.is_irrelevant[feature]:
            return "irrelevant"
        if self.is_linear[feature]:
            return "linear"
        number = _number(self.bandwidth[feature])
        return f"λ = {number}" if self.is_categorical[feature] else number

    def _notes(self) -> list[str]:
        notes = []
        if self.is_categorical.any():
            notes.append("λ: weight of a mismatch of a category; it has no marginal effect.")
        if np.isnan(self.bandwidth).any():
            notes.append("Features have no bandwidths of their own in this metric.")
        return notes


def _aligned(table: list[list[str]]) -> list[str]:
    """Return lines with names at the left and numbers at the right of their columns."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for name, *cells in table:
        numbers = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        lines.append("  ".join([name.ljust(widths[0]), *numbers]).rstrip())
    return lines


def _number(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.4g}"


def _short(name: str) -> str:
    name = " ".join(str(name).split())
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
