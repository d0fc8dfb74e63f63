"""The sbr plugin: routes packets of an interface by their source address."""
