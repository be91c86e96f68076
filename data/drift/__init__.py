"""Is this data like that? Sketches of shards and tables, and the gates that compare them."""

from data.drift.document_drift import gate
from data.drift.gate_report import GateReport
from data.drift.table_drift import gate_tables

__all__ = ["GateReport", "gate", "gate_tables"]
