"""The kernels' formulas that the compiled loops know, by name; this module needs no numba."""

FAMILIES = (
    "gaussian",
    "exponential",
    "cosine",
    "epanechnikov",
    "tophat",
    "linear",
    "biweight",
    "triweight",
    "tricube",
    "power",  # 2^−s, the Gaussian of points that are scaled for it
    "near power",  # the same where no s is larger than `loops.LARGEST`
    "nearest",
)
FORMS = ("profile", "slope", "square")
