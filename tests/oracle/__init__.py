"""Independent reference implementations that the tests compare against."""
