"""What cannot run although it can be planned: (plan, target) -> faults, pure and without torch.

The planner refuses only what is meaningless. A plan may be valid and still beyond megatron-core, which answers
sometimes with an assertion deep in a constructor and sometimes with a wrong gradient. `mimo plan` prints what is found
here as warnings, and the executor, which asks the same function, refuses before any collective.
"""
