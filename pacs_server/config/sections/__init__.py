"""The settings as frozen values, one file for each section."""
