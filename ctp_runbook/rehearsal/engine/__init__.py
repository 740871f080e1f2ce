"""The twin's engines and strategy runners, old and new."""

__all__: list[str] = []
