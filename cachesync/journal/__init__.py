"""The journal: the only durable state. One row a path; facts only (schema.py)."""
