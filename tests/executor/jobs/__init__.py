"""What the executor's tests run on ranks (*_jobs.py), and their helpers: layouts, faults, parity with one rank."""
