"""Procedural worlds: pictures and captions that training can ask for without end. Nothing on the generate path imports this."""
