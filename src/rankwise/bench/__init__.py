"""What a run and a study cost beside the same work done with other tools, in one measurement."""
