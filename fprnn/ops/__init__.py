"""The recurrences that every layer here is built on: a function each, several backends."""

from fprnn.ops.linear_scan.scan import linear_scan
from fprnn.ops.selective_scan.scan import selective_scan

__all__ = ["linear_scan", "selective_scan"]
