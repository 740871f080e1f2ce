"""The rehearsal twin: a simulated CTP front and real processes around it, on loopback only."""

__all__: list[str] = []
