"""The one process that acts: how it is started, asked, survived."""

__all__: list[str] = []
