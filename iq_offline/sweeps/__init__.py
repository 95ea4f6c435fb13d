"""Many runs: which ones, and where they are done."""
