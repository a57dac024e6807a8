"""The tree under the root: listing, stat, and reading a file as it was at one moment.

Symlinks are never followed, not even in the middle of a path or when a directory is swapped for one while we work: each
path is opened beneath its session's descriptor by the kernel's own rules.
"""
