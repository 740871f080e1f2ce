"""The simulated CTP front, and the words it speaks with its clients."""

__all__: list[str] = []
