"""Counts the agent's requests in a separate process, and serves the metrics to Prometheus."""
