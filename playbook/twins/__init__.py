"""IAM, STS and CircleCI in memory, with the platforms' own rules: what rehearsals, dry runs and tests act on."""
