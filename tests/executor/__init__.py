"""Laws of the executor, on real ranks that talk over gloo."""
