"""Evaluators: who computes the weights between blocks of queries and keys."""
