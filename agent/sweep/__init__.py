"""Many runs: a plan of tasks x seeds x settings, a scheduler, and the places where runs are carried out."""
