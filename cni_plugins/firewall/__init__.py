"""The firewall plugin: lets the traffic of containers through the host's filters, and isolates networks."""
