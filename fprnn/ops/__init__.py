"""The diagonal linear recurrence that every layer here is built on: one function, several backends."""

from fprnn.ops.scan import linear_scan

__all__ = ["linear_scan"]
