"""The bandwidth plugin: limits the rate of an interface in both directions."""
