"""The macvlan plugin: containers with addresses of their own on the wire."""
