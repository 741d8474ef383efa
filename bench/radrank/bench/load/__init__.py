"""Load on a running server: planned arrivals, latency from the planned time, nothing left out."""
