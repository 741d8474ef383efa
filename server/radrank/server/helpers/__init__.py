"""Processes that re-rank for the event loop.

Python runs one thread of a process at a time. A search in the loop is computed there but for its second stage, the
graph and the re-ranker: that a helper takes over where others wait, and the loop goes on with the next search. Helpers
read the same snapshot, memory-mapped, and are told what came since.
"""
