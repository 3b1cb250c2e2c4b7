"""Tiles: the weights between blocks of queries and keys, and who evaluates them.

`pairs` says which blocks meet. An `Evaluator` does sums over given pairs: `torch_tiles` (with
`distances`) for any kernel on any device, `fused` (with the loops in `compiled`) on a CPU with
numba. `evaluators` is the registry, and `loops` knows when the compiled ones are ready.
"""
