"""stamp: a small chained plugin that sets MAC address and MTU, and adds one nf_tables rule."""
