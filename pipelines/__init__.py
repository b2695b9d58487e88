"""What a job is: the job types and the bulk machinery that runs them over whole datasets."""
