"""vxlan: one container network across many hosts (docs/overlay.md)."""
