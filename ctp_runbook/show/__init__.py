"""A history in, something to look at out."""

__all__: list[str] = []
