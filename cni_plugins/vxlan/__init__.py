"""The vxlan plugin: connects containers of many hosts to one overlay network (docs/overlay.md)."""
