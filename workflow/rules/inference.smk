# Inference: the responses of one model, or of a run's last checkpoint, and what they say about decoding.
