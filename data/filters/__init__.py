"""What is left out: a declared, ordered list of filters, with counts and examples of each."""

from data.filters.content import SCORERS
from data.filters.filters import FILTERS, Filters, filters_of
from data.filters.report import Report

__all__ = ["FILTERS", "SCORERS", "Filters", "Report", "filters_of"]
