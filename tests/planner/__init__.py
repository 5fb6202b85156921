"""Laws of the planner: specs, plans, the verifier, the report and the command, on one process without torch."""
