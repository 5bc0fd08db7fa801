"""The fault drill: a job that is killed, stopped, damaged and crowded must end as one that never was.

`faults` says what is done to a job and what it may answer, `damage` what happens to its files, `process` watches
and hits one process, `job` takes a job through its faults to its end, `report` compares and writes the tables.
"""
