"""Storing a sessions directory that exists already, without touching it.

The engine does the work, with its state elsewhere; ``rehearse`` only counts what it would do.
"""
