"""kvattn: the reference that attention code is tested against."""
