"""What happened in a run, as people read it: `model` makes spans and moments of a trace's records, `text` draws them
for a terminal, `page` for a browser; `draw` writes both.
"""
