"""The only room that knows GitLab: what a pipeline asks for, and how results get back to a merge request."""
