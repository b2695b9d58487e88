"""The donor's side: the agent that lends this machine, and everything by which its owner stays in control of it."""
