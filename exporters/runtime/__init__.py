"""What runs a network: PyTorch and ONNX Runtime, their inputs and providers."""
