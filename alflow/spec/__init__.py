"""YAML to typed objects, checked in full."""
