"""Changes settings of a sandbox and its interface, and gives back the values from before."""
