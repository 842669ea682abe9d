"""What leaves the toolkit: ONNX files, the proof that they compute the same, and the measurements."""
