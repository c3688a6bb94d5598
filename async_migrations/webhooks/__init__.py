"""Events of migrations, sent to addresses of others, signed as Standard Webhooks has it.

The deliveries are written by `lifecycle.moves`, in the statement of the event; here they are sent, by the workers.
"""
