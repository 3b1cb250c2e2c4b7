"""Attention pooling of tensors, as nodes of torch's graph."""
