"""Recorded cases: inputs, and outputs rounded correctly from exact arithmetic."""
