"""The words of change: what a plan may consist of, and how each word is taken back."""
