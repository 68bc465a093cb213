"""A CircleCI configuration as text: what it says, which jobs reach AWS, and how it moves from access keys to OIDC.

Pure functions: nothing here opens a file, starts a process or knows a platform.
"""
