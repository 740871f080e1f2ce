"""What a cell calls, and how notebooks are run."""

__all__: list[str] = []
