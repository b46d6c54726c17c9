"""Values and arithmetic: numpy only, OpenCV in alignment."""
