"""What the processes of one installation share beside the database, through Redis.

Nothing lives here alone: without Redis, or while it is lost, each process goes on by itself with
what it has and what the database says. Knows nothing of users, answers or money.
"""
