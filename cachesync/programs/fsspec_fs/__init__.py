"""``cachesync://SESSION/PATH`` for fsspec, so that pandas, pyarrow and duckdb read artifacts through the cache."""

from cachesync.programs.fsspec_fs.filesystem import CacheSyncFileSystem

__all__ = ["CacheSyncFileSystem"]
