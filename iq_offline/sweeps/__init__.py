"""Many runs at once: what their scores say together, and the pictures of it."""
