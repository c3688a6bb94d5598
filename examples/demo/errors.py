"""What stops the demo or the bench."""


class CannotGoOn(Exception):
    """Something is not as it has to be; the message is one line for a person: what happened and what to do."""
