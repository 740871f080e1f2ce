"""From a sample to a verdict; writes nothing."""

__all__: list[str] = []
