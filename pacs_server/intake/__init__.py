"""Other ways in: imported files and the watched worklist folder."""
