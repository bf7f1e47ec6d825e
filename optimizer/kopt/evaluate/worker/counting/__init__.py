"""Triton's interpreter, made to count instead of compute.

Kernels run with the types, addresses, masks and control flow of the real thing, but what they load is a *ghost*: an
array of one element and a shape. So a program of a full-size problem costs milliseconds and no memory, and its FLOPs,
bytes, touched sectors, operations and trip counts come out exact.

    arrays.py    ghosts and flat arrays
    memory.py    a made-up address space, and which sectors an access touches
    tally.py     what one program did, loop by loop
    builder.py   the interpreter's operations that touch memory or multiply matrices
    operations.py  all its other operations
    shortcuts.py  integer arithmetic without the frontend's overhead
    autotuned.py  which configuration of an autotuned kernel is counted
    rewrite.py   the kernel's syntax tree: loops and branches report themselves
    loops.py     which iterations of a loop are run, and what each stands for
    install.py   puts all of this in place of the stock interpreter
    launch.py    in place of the grid: runs programs, records launches
    arguments.py  arguments of launches, and when two are the same
    executing.py  launches on integers alone, which are really run
    sampling.py  which programs are run, and what is concluded from them

Only worker processes import this package: it needs triton, imported with TRITON_INTERPRET=1.
"""
