"""What turns an encoder into a number: readouts, fine-tuning, Gabor fits."""
