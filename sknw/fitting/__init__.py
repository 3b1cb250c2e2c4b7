"""The leave-one-out problem, and the one search for its minimum: bandwidths and weights alike."""
