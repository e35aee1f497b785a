"""What a potential is worth: crystals, elastic constants, cold curves."""
