"""The pages of the studio, one file each; every one has `build(page, places, t)`.

These modules import gradio: `studio.app` imports them when the studio starts. Not done here:
anything that is not shown.
"""
