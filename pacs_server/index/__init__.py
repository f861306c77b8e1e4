"""The index: SQLAlchemy lives here and nowhere else; what comes out are frozen values."""
