"""Many small batches: attention pooling beside softmax attention in plain torch.

    python tests/benchmarks/small_batches.py

For batches x queries x keys x features, the median milliseconds of `attention_pooling` and of
``softmax(-squared distances / 2) @ values``, forward, and forward and backward with gradients of
queries, keys and values; and how much ours takes for each of plain torch's milliseconds.
"""

import argparse
import functools

import torch
from _report import median_seconds, print_header, print_table

from sknw.functional import attention_pooling

SIZES = ["64x20x20x4", "1000x5x7x2", "4096x1x32x8", "256x32x32x16", "1x100x100x3"]


def main():
    options = _options()
    print_header("small batches: attention_pooling beside plain torch (medians)")
    rows = [
        (size, "forward and backward" if with_gradient else "forward", *_row(size, options, leaves))
        for size in options.sizes
        for with_gradient, leaves in ((False, _tensors(size)), (True, _leaves(size)))
    ]
    print_table(("b x m x n x d", "", "sknw [ms]", "plain [ms]", "sknw / plain"), rows)


def plain(queries, keys, values):
    """Softmax attention by differences of all pairs."""
    steps = queries[:, :, None] - keys[:, None]
    return torch.softmax(-0.5 * steps.square().sum(dim=-1), dim=-1) @ values


def _row(size, options, tensors):
    calls = {
        name: functools.partial(_call, function, tensors)
        for name, function in (("sknw", attention_pooling), ("plain", plain))
    }
    seconds = median_seconds(calls, options.repeats)
    return *(1e3 * value for value in seconds.values()), seconds["sknw"] / seconds["plain"]


def _call(function, tensors):
    pooled = function(*tensors)
    if pooled.requires_grad:
        torch.autograd.grad(pooled.sum(), tensors)


def _tensors(size):
    b, m, n, d = map(int, size.split("x"))
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=generator) for shape in ((b, m, d), (b, n, d), (b, n, 1))]


def _leaves(size):
    return [tensor.requires_grad_() for tensor in _tensors(size)]


def _options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=SIZES, help="b x m x n x d")
    parser.add_argument("--repeats", type=int, default=51, help="timed rounds")
    return parser.parse_args()


if __name__ == "__main__":
    main()
