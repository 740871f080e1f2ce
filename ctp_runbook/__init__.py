"""Cutting over a live CTP trading engine: measured, decided, reversible, proved."""

__all__ = ["__version__"]

__version__ = "0.1.0"
