"""The doors: HTTP, Python, command line. The composition root; nobody imports it."""
