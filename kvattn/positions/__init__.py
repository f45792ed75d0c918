"""Where a token is: one scheme per file, all of them functions of absolute positions."""

__all__: list[str] = []
