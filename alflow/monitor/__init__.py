"""Status, dashboard and report: all read the journal."""
