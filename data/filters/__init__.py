"""What is left out: a declared, ordered list of filters, with counts and examples of each."""

from data.filters.content import SCORERS
from data.filters.filters import FILTERS, Filters, build_filters
from data.filters.report import Report

__all__ = ["FILTERS", "SCORERS", "Filters", "Report", "build_filters"]
