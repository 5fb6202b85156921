"""One self-contained HTML page that shows a plan and what it will take."""
