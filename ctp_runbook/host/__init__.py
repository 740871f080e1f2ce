"""One Linux machine, without policy: processes, daemons, locks, clocks."""

__all__: list[str] = []
