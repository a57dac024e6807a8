"""The mount: every session as ordinary files, in front of the root."""
