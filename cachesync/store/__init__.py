"""Stores: one protocol (base), and S3 and every fsspec URL behind it."""
