"""Who needs to read what? Everything here is rendered from evidence alone."""

from trt_action.report.comment import comment, marker, summary

__all__ = ["comment", "marker", "summary"]
