"""Data: sources (index -> record), augmentation on the host, and an order that is a function of (seed, step)."""
