"""The engine of the credential-rotation playbook; it knows no step (those live in `steps`)."""

__version__ = "0.1.0"
