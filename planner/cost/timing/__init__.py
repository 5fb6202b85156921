"""From counted work to seconds on a GPU."""
