"""A finished network to be asked about images: from a run or a file, given pictures, answering with classes."""
