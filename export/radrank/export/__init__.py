"""From trained torch modules to a bundle of ONNX files that answer as they did."""
