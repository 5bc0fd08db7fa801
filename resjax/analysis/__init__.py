"""Looking inside networks: `python -m resjax.analysis NAME`.

Every analysis of runs is a module with the same three functions. `measure(run, options)` returns plain data for
JSON; `plot(found, path)` draws the data of several runs, by label, and reads nothing else; `profiles(found)` are
the numbers of one run that TensorBoard shows as lines over depth.

A demonstration tries an argument of the papers where it takes seconds, on stacks of units instead of a run:
`measure(options)`, `plot(found, path)`, and `table(found)`, the numbers as text.
"""
