"""What a bash command line would execute, as far as that can be told without running it."""

__all__: list[str] = []
