"""The LLM engine: a sequencer that plans steps, a chain of stages that compute them, and what they share."""
