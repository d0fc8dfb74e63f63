"""Metrics of the agent: counted in a process of their own, served to Prometheus."""
