"""What MedLIP says of itself wherever it shows a result."""

DISCLAIMER = "Research software. Not a medical device: not for diagnosis or treatment."
