"""What the reference of each op runs on a CPU, one file for each family of ops, one function named as the op.

An op without a function here runs one call that reads its operands and writes its results. Read only where times of
this machine are asked for, so that no other command waits for it.
"""
