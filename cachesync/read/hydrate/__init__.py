"""Bringing a session's files, links and directories here from the store."""
