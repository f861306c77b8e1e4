"""Background work that the server promised to do later."""
