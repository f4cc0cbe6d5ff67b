"""The read side: trips over HTTP, from a projection of the announcements into a database.

``streams.serve.app`` puts it together: read that first.
"""
