"""Values: structures, labels, seeds, units. Needs numpy only."""
