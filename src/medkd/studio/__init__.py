"""The studio: the whole pipeline in a browser, on the same files and the same processes as the
command line.

`command` starts it, `guard` keeps strangers out, `places` says which folders it may read, `pages`
holds a file a page.
Not done here: anything a stage does. The studio starts stages as detached runs and reads what they
write.
"""
