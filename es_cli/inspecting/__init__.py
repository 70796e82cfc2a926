"""From a folder of measurements to a spec: what lies there, what it was measured with, and what can be said about that; nothing here imports torch."""
