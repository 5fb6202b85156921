"""No rank waits for ever, and none ends without a word: where a rank stands, the guard of its time, how it ends.

One process is one rank. Nothing here imports torch, since the guard starts before it.
"""
