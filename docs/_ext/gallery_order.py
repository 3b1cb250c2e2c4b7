"""The order of the examples: as one would read them, later ones by name."""

from pathlib import Path

_FIRST = [
    "plot_quickstart",
    "plot_attention_step_by_step",
    "plot_queries_keys_values",
    "plot_bandwidth_selection",
    "plot_mixed_table",
    "plot_learned_metric",
    "plot_neural_attention",
    "plot_million_points",
    "plot_coming_from",
    "plot_torch_module",
]


class ReadingOrder:
    """Sort key of sphinx-gallery, from a file name to its place."""

    def __init__(self, src_dir: str):
        self.src_dir = src_dir

    def __call__(self, filename: str) -> tuple[int, str]:
        """Return the place of a file."""
        name = Path(filename).stem
        return (_FIRST.index(name) if name in _FIRST else len(_FIRST), name)

    def __repr__(self) -> str:
        return type(self).__name__
