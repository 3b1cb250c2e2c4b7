"""Algorithms: which pairs of queries and keys are evaluated at all.

An `Algorithm` is `dense` (all pairs), `blocks` (those that matter), `nufft` (none: Fourier
transforms, with `fourier`) or `sorted` (none: one sweep over sorted points). `choice` is the
registry and chooses by the times that `costs` and `shares` estimate.
"""
