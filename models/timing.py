"""The clock of the system: frames of video, samples of speech, windows of motion. All files take them from here."""

FPS = 25
SAMPLE_RATE = 16_000
SAMPLES_PER_FRAME = SAMPLE_RATE // FPS
MOTION_WINDOW = 27  # frames of motion that style one output frame, centred on it (as PIRenderer's drivers)
