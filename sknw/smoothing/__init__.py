"""From kernel sums to estimates: ratios, attention weights, empty neighbourhoods, pooling."""
