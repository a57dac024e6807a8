"""Diagnoses problems and says how to fix them.

A check looks (``probes``, ``bucket``, ``objects``), and a pure function says what the facts mean (``root_checks``,
``host``, ``stored``). It needs no daemon, takes no lock, and leaves nothing behind.
"""
