"""Artifacts by address, on sessions of any host, projects and templates."""
