"""The human, or the file standing in for one: each operator implements `playbook.model.Operator`.

`script` answers from a file, `wizard` asks at a terminal, `transcript` remembers what either has answered. What counts
as an answer is said once, in `validity`, so that whatever the wizard accepts can be printed as an answers file.
"""
