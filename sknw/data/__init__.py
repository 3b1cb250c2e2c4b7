"""From tables to arrays: columns, features, observations; the only door between numpy and torch."""
