"""The watcher: which paths under the root are worth a look. The only part that knows watchdog.

hints.py      what is handed out: Hint, Hints; the bounded, coalescing collection behind them
arrivals.py   which names came below a directory, for a flush that follows files
hearing.py    how the parts of the engine wait for what the watcher hears
reader.py     watchdog's inotify descriptor and thread, made to survive
inotify.py    Linux: the table of watched directories
portable.py   elsewhere: watchdog's own observer
watch.py      Watcher: start, stop, health, healing; not here, since who only looks at hints needs no watchdog
"""

from cachesync.watcher.arrivals import Arrivals
from cachesync.watcher.hearing import Ears, Hearing
from cachesync.watcher.hints import Hint, Hints

__all__ = ["Arrivals", "Ears", "Hearing", "Hint", "Hints"]
