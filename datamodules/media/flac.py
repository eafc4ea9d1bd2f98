"""Speech as the bytes of a FLAC file, and back.

The bytes go through files without a name, in memory. Of a file object of Python libsndfile reads by calls into Python,
and Ctrl-C that comes within such a call is lost: it looks like damaged bytes.
"""

import os

import numpy as np
import soundfile

from ..sample import SAMPLE_RATE


def open_flac(data: bytes) -> soundfile.SoundFile:
    """The bytes of a FLAC file, to be read; raises soundfile.LibsndfileError if they are none."""
    file = os.memfd_create("flac")
    try:
        with open(file, "wb", closefd=False) as memory:
            memory.write(data)
        os.lseek(file, 0, os.SEEK_SET)
        return soundfile.SoundFile(os.dup(file))  # which closes its own, also if it fails
    finally:
        os.close(file)


def encode_flac(speech: np.ndarray) -> bytes:
    """Speech float32 (N,) in [-1, 1] at 16 kHz as FLAC bytes, 16 bit."""
    pcm = np.clip(np.round(speech * 32768.0), -32768, 32767).astype(np.int16)
    file = os.memfd_create("flac")
    with open(file, "rb") as memory:
        soundfile.write(os.dup(file), pcm, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
        memory.seek(0)
        return memory.read()


def decode_flac(data: bytes) -> np.ndarray:
    """The bytes that `encode_flac` wrote -> float32 (N,); raises soundfile.LibsndfileError on damaged bytes."""
    with open_flac(data) as file:
        assert file.samplerate == SAMPLE_RATE
        return file.read(dtype="float32")
