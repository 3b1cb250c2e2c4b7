"""Warnings that the public methods emit, and nothing that computes."""


class EmptyNeighborhoodWarning(UserWarning):
    """Some queries have no training row in reach; `empty_neighborhood` says what they get."""


class DeviceWarning(UserWarning):
    """The device a model was fitted on is absent here, and the CPU is used instead."""
