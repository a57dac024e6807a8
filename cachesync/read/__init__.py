"""Reads artifacts: the local file, else the cache, else the store (SPEC section 8)."""
