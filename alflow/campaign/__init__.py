"""The mind: events, state, policies. Pure; standard library only."""
