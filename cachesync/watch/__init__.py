"""The watcher: finds paths under the root that may have changed. The only package that uses watchdog.

hints.py      Hint, Hints: the bounded collection of paths to check
arrivals.py   the names that appeared below a directory, for a flush that tracks moved files
hearing.py    how the engine waits for the watcher's events
reader.py     watchdog's inotify descriptor and thread, made to survive
inotify.py    Linux: the table of watched directories
portable.py   elsewhere: watchdog's own observer
watch.py      Watcher: start, stop, health, healing; not imported here, so that users of hints need no watchdog
"""
