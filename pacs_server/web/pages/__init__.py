"""The web pages: HTML from templates that works without scripts, and small scripts that make it quicker to use."""
