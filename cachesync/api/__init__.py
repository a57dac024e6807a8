"""The control socket: the verbs as HTTP with JSON, for commands and for programs that share only a volume.

``server`` and ``client`` are its two ends; ``wire`` is what travels between them.
"""
