"""The process that owns a root: wiring, reconciler, shutdown."""
