"""The infra gates, one module a component: what is wanted, what is done, what is wrong."""

__all__: list[str] = []
