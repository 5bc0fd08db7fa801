"""Random views of training images: drawn for whole batches, cut from photos by the host, finished by the device."""
