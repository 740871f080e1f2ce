"""The twin's data plane: real PostgreSQL, broker, ClickHouse and Debezium out of wheels."""

__all__: list[str] = []
