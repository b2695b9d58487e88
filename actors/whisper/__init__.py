"""Speech as text: Whisper models that stay loaded, and recordings cut so that many are heard at once."""
