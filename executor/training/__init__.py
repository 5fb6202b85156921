"""What a step needs beside the model: gradients, the optimizer, samples."""
