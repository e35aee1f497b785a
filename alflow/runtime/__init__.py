"""The hands: worker, runners, journal, coordinator."""
