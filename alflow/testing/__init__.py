"""Contract suites and fakes for those who add parts."""
