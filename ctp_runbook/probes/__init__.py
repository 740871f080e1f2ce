"""Probes: one module per kind of source. A probe says what it saw, or raises ProbeError."""

__all__: list[str] = []
