"""HL7 version 2: messages, orders, and MLLP, their framing over TCP."""
