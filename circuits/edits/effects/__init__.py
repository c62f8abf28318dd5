"""What an edit is compared with, and by which prompts."""
