"""The model that ships with cir-rt."""
