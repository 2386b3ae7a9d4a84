"""The only room that knows GitHub: what an event asks for, and how results get back to a pull request."""
