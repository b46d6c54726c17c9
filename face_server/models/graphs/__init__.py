"""Repairs that turn a published ONNX file into one that every backend runs at its best."""
