"""The shipped checks: one pytest function a check, grouped by area."""
