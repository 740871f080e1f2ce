"""Inputs to one typed plan: templates, rules, limits. Pure but for reading files."""

__all__: list[str] = []
