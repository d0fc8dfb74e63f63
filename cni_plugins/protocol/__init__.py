"""The words of the CNI specification: request, result, versions. Knows no plugin and no kernel."""
