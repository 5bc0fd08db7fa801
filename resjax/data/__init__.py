"""Data: sources of records, what turns them into network input, and an order that is a function of (seed, step)."""
