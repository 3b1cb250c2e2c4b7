"""The only door between numpy and torch, and the only place that knows devices and dtypes.

Arrays that torch refuses (negative strides, foreign byte order) or warns about (read-only) are
copied here. Everything a fitted estimator keeps is numpy; tensors live for the length of a call.
"""

from typing import Any

import numpy as np
import sklearn
import torch
from torch import Tensor

from sknw.support.warnings import DeviceWarning, warn_user


def to_tensor(array: np.ndarray, *, dtype: torch.dtype, device: str | torch.device) -> Tensor:
    """Return a tensor of the array's values, without a copy where torch can share them."""
    array = np.asarray(array)
    needs_copy = not (array.flags.writeable and array.flags.c_contiguous and array.dtype.isnative)
    if needs_copy:
        array = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
    return torch.from_numpy(array).to(device=device, dtype=dtype)


def to_numpy(tensor: Tensor) -> np.ndarray:
    """Return the tensor's values as a numpy array on the host."""
    return tensor.detach().cpu().numpy()


def input_array(X: Any) -> Any:
    """Return a torch tensor as numpy, and anything else untouched."""
    if not isinstance(X, Tensor):
        return X
    has_numpy_dtype = X.dtype in (torch.float16, torch.float32, torch.float64)
    return to_numpy(X.double() if X.is_floating_point() and not has_numpy_dtype else X)


def torch_dtype(*dtypes: np.dtype) -> torch.dtype:
    """Return the dtype to compute in: float32 where every input is float32, else float64."""
    return torch.float32 if np.result_type(*dtypes) == np.float32 else torch.float64


def accumulator_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype of sums: float64, but for devices that have none."""
    return torch.float32 if device.type == "mps" else torch.float64


def working_memory_bytes() -> int:
    """Return scikit-learn's ``working_memory`` setting in bytes."""
    return int(sklearn.get_config()["working_memory"] * 2**20)


def available_devices() -> list[str]:
    """Return the names of the devices that torch can use here, the best one first."""
    accelerator = torch.accelerator.current_accelerator() if _has_accelerator() else None
    return [accelerator.type, "cpu"] if accelerator is not None else ["cpu"]


def least_weight(dtype: torch.dtype) -> float:
    """Return the least weight of a row in sums, beside a largest of 1; lighter ones are raised."""
    # products with a kernel weight and a scaled target must be representable, squares need not
    return 2.0**-100 if dtype == torch.float32 else 2.0**-1000


def weights_tensor(weights: np.ndarray, *, dtype: torch.dtype, device) -> Tensor:
    """Return positive weights, the largest about 1, as a tensor in which none vanishes."""
    return to_tensor(np.maximum(weights, least_weight(dtype)), dtype=dtype, device=device)


def _has_accelerator() -> bool:
    return torch.cuda.is_available()


def fit_device(device: str | torch.device | None, X: Any) -> str:
    """Return the device to fit on.

    Parameters
    ----------
    device : str, torch.device or None
        None follows the input (the CPU, or a tensor's own device); ``"auto"`` takes the best
        accelerator there is.
    X : array-like or torch.Tensor
        The input as the user gave it.

    Raises
    ------
    ValueError
        If the device is not present.
    """
    if device is None:
        return str(X.device) if isinstance(X, Tensor) else "cpu"
    if device == "auto":
        return available_devices()[0]
    if not _is_present(device):
        raise ValueError(
            f"device must be None, 'auto' or one that torch finds here: {available_devices()}; "
            f"got {str(device)!r}."
        )
    return str(torch.device(device))


def predict_device(fitted: str) -> str:
    """Return the device a model was fitted on or, with a warning, the CPU where it is absent."""
    if _is_present(fitted):
        return fitted
    warn_user(
        f"The model was fitted on {fitted!r}, which is not present here; using the CPU.",
        DeviceWarning,
    )
    return "cpu"


def _is_present(device: str | torch.device) -> bool:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        return False
    return torch.device(device).type != "meta"
