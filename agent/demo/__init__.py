"""Five devices on one machine, watched from outside: `flockmq demo`.

    plan       who there is, who is linked to whom, what each device.toml says
    identities   who they are to each other
    records    what a device's process and its watcher write to each other
    child      one device in a process of its own      reporter   what it tells its watcher
    process    such a process, from outside            fleet      all of them, and the faults
    procfs     memory and processor time of a process and its children
    ledger     what was published and who has it: the independent book-keeping
    windows    when which devices could not reach each other
    figures    percentiles in bounded memory           result     the final object and the verdict
    scenario   what happens when                       table      the live table
    command    the command itself

The devices are the real thing (`agent.device`); nothing of the mesh is looked into. What is said
at the end comes from what the devices' agents published and applied, and from the kernel.
"""
