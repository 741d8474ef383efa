"""Load, latency and scale, measured."""
