"""The HTTP backend: screens and apps ask, one bundle and gallery answer."""
