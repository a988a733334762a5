"""One self-contained HTML file that shows a run: what it is, how good, how it went, and its structures."""
