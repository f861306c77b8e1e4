"""The audit trail: what happened, kept durably, chained, searched, and sent to an audit repository (PS3.15 A.5)."""
