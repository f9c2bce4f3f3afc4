"Stands in for tqdm where it is not installed."
