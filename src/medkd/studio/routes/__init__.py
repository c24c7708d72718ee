"""The pages, one file a page: what each shows, and what its forms do.

In: a `Page` (and the form that was sent). Out: a response. Not done here: the table of addresses
(`studio.app`).
"""
