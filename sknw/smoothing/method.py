"""How queries are smoothed: the choices that go with every kernel sum of an estimate."""

from dataclasses import dataclass

from sknw.kernels import Kernel
from sknw.sums import DEFAULT_RTOL


@dataclass(frozen=True)
class Method:
    """How queries are smoothed.

    Parameters
    ----------
    kernel : Kernel
        The window.
    algorithm : str, default="auto"
        Name of the algorithm of the sums, or ``"auto"``.
    rtol : float, default=1e-8
        Largest error, relative to the range of the values.
    empty_neighborhood : str, default="nearest"
        Policy for queries without a key in reach: see `sknw.smoothing.empty`.
    degree : int, default=0
        Degree of the local polynomials; 0 are means.
    """

    kernel: Kernel
    algorithm: str = "auto"
    rtol: float = DEFAULT_RTOL
    empty_neighborhood: str = "nearest"
    degree: int = 0
