"""Is this data like that? Sketches of shards and tables, and the gates that compare them."""

from data.drift.documents_gate import gate

__all__ = ["gate"]
