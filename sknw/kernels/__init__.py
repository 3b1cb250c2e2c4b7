"""Kernels as records: what a kernel sum must know about the shape of a window.

A kernel is a function of the scaled distance ``u = ‖(x − x_i)/h‖``, scaled to ``K(0) = 1``. The
engine works with squared distances ``s = u²``, so a record holds the *profile* ``s -> K(√s)``, its
derivative ``dK/ds`` (from which every gradient follows), the support, and the two moments behind
canonical bandwidths. Kernels that never reach zero also carry their *tail*: the weight relative
to the nearest key's, which stays accurate where the profile underflows.

A new kernel is one more record in `named`; parameter constraints, tests and messages read the
registry `KERNELS`. A user's function becomes a record in `custom`.
"""

from sknw.kernels.custom import as_kernel
from sknw.kernels.named import KERNELS
from sknw.kernels.record import Kernel

__all__ = ["KERNELS", "Kernel", "as_kernel"]
