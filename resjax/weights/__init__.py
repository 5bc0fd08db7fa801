"""Weights of other libraries, in and out: files read without running them, and names from one table."""
