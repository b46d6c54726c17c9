"""Networks: between tensors and faces, never who runs them."""
