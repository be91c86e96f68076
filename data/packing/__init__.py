"""Rows of a fixed length out of documents of any."""

from data.packing.packings import Chunked, Packed, Rows, Segment, document_ids, rows

__all__ = ["Chunked", "Packed", "Rows", "Segment", "document_ids", "rows"]
