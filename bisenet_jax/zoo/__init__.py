"""Trained networks that come with the package: weights files, and a register of them."""
