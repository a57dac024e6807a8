"""Benchmarks: how fast bytes get to the store and back, against raw requests on the same machine in the same run."""
