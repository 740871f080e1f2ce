"""The record recomputed; nothing that was written is trusted."""

__all__: list[str] = []
