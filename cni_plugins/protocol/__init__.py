"""Implements the CNI protocol: requests, results, versions. Independent of plugins and kernel."""
