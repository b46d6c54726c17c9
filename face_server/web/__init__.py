"""The console: templates and static files, no build step."""
