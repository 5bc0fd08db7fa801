"""Looking inside trained networks: `python -m resjax.analysis NAME --workdir=RUN`.

Every analysis is a module with the same three functions. `measure(run, options)` returns plain data for JSON;
`plot(found, path)` draws the data of several runs, by label, and reads nothing else; `profiles(found)` are the
numbers of one run that TensorBoard shows as lines over depth.
"""
