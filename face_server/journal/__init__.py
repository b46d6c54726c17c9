"""What must survive a restart besides templates."""
