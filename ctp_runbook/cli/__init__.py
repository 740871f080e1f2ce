"""The commands of ``ctp-runbook``."""

__all__: list[str] = []
