"""Batches for each rank, a pure function of a cursor, and the account of what was trained on."""

from data.feed.ledger import Ledger
from data.feed.loader import Batch, Loader, evaluation_rows
from data.feed.stream import Damage, Samples, Stream

__all__ = ["Batch", "Damage", "Ledger", "Loader", "Samples", "Stream", "evaluation_rows"]
