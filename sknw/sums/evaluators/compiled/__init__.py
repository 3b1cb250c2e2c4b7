"""The compiled loops: distance, kernel and accumulation in a core's registers and first cache."""
