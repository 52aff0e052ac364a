"""What papers and introductory texts say of LoRA, put to the test: one claim a file, each with a bound fixed before."""
