"""The reference PyTorch models."""
