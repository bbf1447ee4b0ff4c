"""The re-ranker's part of a build: the forms of its graphs, raced and held to gates."""
