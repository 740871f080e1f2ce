"""What a run leaves, and how it is read back."""

__all__: list[str] = []
