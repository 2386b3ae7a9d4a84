"""Commands of the command line that do not run the pipeline: one module each, with `add(commands)`.

A module imports nothing heavy at its top: every `trt-action --help` imports them all.
"""
