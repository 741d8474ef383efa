"""Everything that computes natively: search indexes, encoders and re-rankers on ONNX Runtime, and their bundle."""
