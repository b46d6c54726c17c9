"""NVIDIA Triton through its async gRPC client."""
