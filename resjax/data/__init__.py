"""Data: where records come from, how they become network input, and an order that is a function of (seed, step)."""
