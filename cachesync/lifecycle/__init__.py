"""A session's life: made, brought here, closed, dropped here (verbs.Lifecycle).

One verb at a time works on one session. Every verb begins with a scan: what changed here is marked before anything is
compared with the store, or goes.
"""

from cachesync.lifecycle.life import SessionLife

__all__ = ["SessionLife"]
