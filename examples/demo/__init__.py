"""`python -m examples.demo`: the main job end to end, on servers out of wheels, in front of a person's eyes."""
