"""resjax: deep residual networks in JAX."""

__version__ = "0.2.0"
