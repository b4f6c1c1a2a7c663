"""What was recorded, looked at again: timelines, export files, verification."""
