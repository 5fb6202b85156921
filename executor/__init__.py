"""Turns a plan into process groups, a MimoModel and training steps. Nothing here yet: see README, Rooms."""
