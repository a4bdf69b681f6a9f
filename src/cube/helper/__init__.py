"""A process beside the service, for work that consists of many short system calls.

Python lets one thread of a process work at a time, and after every system call of one the others compete for it: a
hundred calls of a thread in the background hold requests up by far more than the time that they take. In a process of
its own the same work disturbs nobody.
"""
