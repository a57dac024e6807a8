"""Benchmarks: how fast bytes get to the store, against a raw PUT loop on the same machine in the same run."""
