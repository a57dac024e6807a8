"""Whether everything is there that cachesync needs, and what mends what is not.

A check looks (``gather``, ``bucket``, ``objects``), and a pure function says what the facts mean (``ground``, ``host``,
``stored``). It needs no daemon, takes no lock, and leaves nothing behind.
"""
