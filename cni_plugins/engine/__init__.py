"""The life of a request, written once: which plugin, in which order, what is taken back."""
