"""Where an overlay's peers are known from: one file each, behind the contract in `roster`."""
