"""The read cache: blocks of what the store has, by key and version. Clean bytes only, and any of them may be lost.

Nothing that is wrong with it reaches a reader: what is damaged is thrown away, what cannot be written is not cached.
"""
