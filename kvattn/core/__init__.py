"""The arithmetic of attention: as defined, as streamed over blocks, and merged from parts."""
