"""A small formant synthesiser and the mouth that goes with it: phonemes in time -> sound and articulation.

Source-filter synthesis after Klatt (1980): a glottal pulse train and aspiration noise through a cascade of formant
resonators, beside it frication noise through one band. Parameters live on a grid of HOP samples (5 ms).
"""

from dataclasses import dataclass, field

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.signal import butter, lfilter, sosfilt

from ..sample import SAMPLE_RATE, SAMPLES_PER_FRAME

HOP = 80
RATE = SAMPLE_RATE // HOP  # values of a parameter track in one second
COARTICULATION = 0.026  # seconds, sigma of the articulators' smoothing
BANDWIDTHS = (70.0, 100.0, 140.0, 220.0)


@dataclass(frozen=True)
class Phoneme:
    """Sound and mouth of one phoneme. Levels are 0..1, frequencies Hz, seconds at normal tempo."""

    seconds: float
    formants: tuple[float, float, float]
    voice: float
    jaw: float
    wide: float = 0.0
    round: float = 0.0
    noise: float = 0.0
    noise_hz: float = 0.0
    closure: float = 0.0  # 1 = the lips are shut
    burst: bool = False  # noise only in the last quarter, silence before


# fmt: off
PHONEMES = {
    "a": Phoneme(0.150, (760, 1250, 2550), 1.00, 0.95),
    "e": Phoneme(0.130, (530, 1850, 2550), 0.95, 0.58, wide=0.55),
    "i": Phoneme(0.130, (290, 2280, 3000), 0.85, 0.30, wide=0.90),
    "o": Phoneme(0.140, (520, 880, 2500), 0.95, 0.62, round=0.65),
    "u": Phoneme(0.135, (320, 800, 2300), 0.85, 0.30, round=1.00),
    "@": Phoneme(0.085, (520, 1450, 2500), 0.80, 0.42),
    "w": Phoneme(0.075, (300, 680, 2300), 0.55, 0.16, round=0.90),
    "y": Phoneme(0.070, (280, 2200, 2950), 0.55, 0.22, wide=0.60),
    "r": Phoneme(0.075, (400, 1200, 1650), 0.55, 0.24, round=0.40),
    "l": Phoneme(0.075, (360, 1300, 2700), 0.55, 0.28),
    "m": Phoneme(0.090, (250, 1000, 2200), 0.38, 0.03, closure=1.0),
    "n": Phoneme(0.080, (250, 1550, 2600), 0.38, 0.15),
    "s": Phoneme(0.110, (320, 1650, 2600), 0.0, 0.10, wide=0.30, noise=0.34, noise_hz=5600),
    "sh": Phoneme(0.115, (320, 1800, 2500), 0.0, 0.14, round=0.55, noise=0.36, noise_hz=3000),
    "f": Phoneme(0.100, (340, 1100, 2200), 0.0, 0.06, noise=0.14, noise_hz=4200, closure=0.5),
    "v": Phoneme(0.080, (300, 1100, 2200), 0.30, 0.06, noise=0.06, noise_hz=4200, closure=0.5),
    "z": Phoneme(0.090, (300, 1650, 2600), 0.28, 0.10, wide=0.25, noise=0.20, noise_hz=5400),
    "h": Phoneme(0.070, (550, 1500, 2500), 0.06, 0.35, noise=0.10, noise_hz=1600),
    "p": Phoneme(0.100, (300, 900, 2200), 0.0, 0.03, noise=0.45, noise_hz=1000, closure=1.0, burst=True),
    "b": Phoneme(0.085, (260, 900, 2200), 0.10, 0.03, noise=0.22, noise_hz=900, closure=1.0, burst=True),
    "t": Phoneme(0.095, (320, 1750, 2650), 0.0, 0.14, noise=0.50, noise_hz=4600, burst=True),
    "d": Phoneme(0.080, (280, 1700, 2600), 0.10, 0.16, noise=0.25, noise_hz=4000, burst=True),
    "k": Phoneme(0.095, (320, 1900, 2300), 0.0, 0.20, noise=0.45, noise_hz=2100, burst=True),
    "g": Phoneme(0.080, (280, 1800, 2250), 0.10, 0.22, noise=0.22, noise_hz=1900, burst=True),
    "_": Phoneme(0.120, (500, 1500, 2500), 0.0, 0.0),
}
# fmt: on
VOWELS = frozenset("aeiou@")


@dataclass(frozen=True)
class Voice:
    """Who speaks."""

    pitch: float  # Hz
    tract: float  # factor on the formants: 1 = a long (male) vocal tract, 1.2 = a short one


@dataclass(frozen=True)
class Manner:
    """How it is said: prosody and voice quality, neutral by default."""

    pitch: float = 1.0  # factor on the mean pitch
    pitch_range: float = 1.0
    slope: float = -0.15  # octaves from the first to the last word
    final_rise: float = 0.0  # octaves on the last third of a second
    energy: float = 0.0  # dB
    tempo: float = 1.0
    brightness: float = 0.0  # -1 dull .. 1 pressed and bright
    breath: float = 0.05
    tremor: float = 0.0  # octaves of 7 Hz vibrato
    creak: float = 0.0  # 0..1, irregular low pulses
    nasal: float = 0.0  # 0..1, first formant flattened, a murmur at 250 Hz
    tract: float = 1.0  # factor on the formants: spread lips shorten the tract (> 1), rounded ones lengthen it

    def at(self, strength: float) -> "Manner":
        """The way from a neutral manner (0) to this one (1)."""
        neutral = Manner()
        ways = {name: (getattr(neutral, name), getattr(self, name)) for name in self.__dataclass_fields__}
        return Manner(**{name: start + strength * (end - start) for name, (start, end) in ways.items()})


@dataclass
class Utterance:
    """Sound and articulation of one clip."""

    speech: np.ndarray  # float32 (T * 640,)
    jaw: np.ndarray  # (T,) 0 closed .. 1
    wide: np.ndarray  # (T,)
    round: np.ndarray  # (T,)
    closure: np.ndarray  # (T,) 1 = lips shut
    stress: np.ndarray  # (T,) 1 at the peak of an accented vowel
    voiced: np.ndarray = field(default_factory=lambda: np.zeros(0))  # (T,) level of the voice


def speak(
    phonemes: list[tuple[str, bool]],
    voice: Voice,
    manner: Manner,
    num_frames: int,
    lead_seconds: float,
    rng: np.random.Generator,
) -> Utterance:
    """Synthesise phonemes as (name, stressed) after a silent lead, cut or padded to `num_frames` frames."""
    num = num_frames * SAMPLES_PER_FRAME // HOP
    tracks = _tracks(phonemes, manner, num, lead_seconds, rng)
    speech = _sound(tracks, voice, manner, rng)
    sigma = COARTICULATION * RATE
    per_frame = SAMPLES_PER_FRAME // HOP
    frames = lambda name, s: gaussian_filter1d(tracks[name], s)[per_frame // 2 :: per_frame]  # noqa: E731
    return Utterance(
        speech=speech,
        jaw=frames("jaw", sigma),
        wide=frames("wide", 1.3 * sigma),
        round=frames("round", 1.3 * sigma),
        closure=frames("closure", 0.5 * sigma),
        stress=frames("stress", 1.5 * sigma),
        voiced=frames("voice", 0.4 * sigma),
    )


def _tracks(
    phonemes: list[tuple[str, bool]], manner: Manner, num: int, lead_seconds: float, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Targets on the 5 ms grid, steps not yet smoothed."""
    names = ("jaw", "wide", "round", "closure", "stress", "voice", "noise", "noise_hz", "f1", "f2", "f3")
    tracks = {name: np.zeros(num) for name in names}
    rest = PHONEMES["_"]
    for name, value in zip(("f1", "f2", "f3"), rest.formants, strict=True):
        tracks[name][:] = value
    tracks["noise_hz"][:] = 2000
    begin = round(lead_seconds * RATE)
    for name, stressed in phonemes:
        phoneme = PHONEMES[name]
        seconds = phoneme.seconds * rng.uniform(0.9, 1.1) * (1.25 if stressed else 1.0) / manner.tempo
        span = slice(begin, begin + max(2, round(seconds * RATE)))
        louder = 1.2 if stressed else 0.95
        for key, value in zip(("f1", "f2", "f3"), phoneme.formants, strict=True):
            tracks[key][span] = value
        tracks["jaw"][span] = phoneme.jaw * (1.12 if stressed else 0.95)
        tracks["wide"][span], tracks["round"][span] = phoneme.wide, phoneme.round
        tracks["closure"][span], tracks["voice"][span] = phoneme.closure, phoneme.voice * louder
        tracks["stress"][span] = float(stressed and name in VOWELS)
        noisy = slice(span.stop - max(2, (span.stop - begin) // 4), span.stop) if phoneme.burst else span
        tracks["noise"][noisy] = phoneme.noise * louder
        if phoneme.noise_hz:
            tracks["noise_hz"][span] = phoneme.noise_hz
        begin = span.stop
    tracks["end"] = np.array([min(begin, num)])
    tracks["begin"] = np.array([round(lead_seconds * RATE)])
    return tracks


def _pitch(tracks: dict[str, np.ndarray], voice: Voice, manner: Manner, rng: np.random.Generator) -> np.ndarray:
    """Hz on the 5 ms grid: declination, accents on stressed vowels, final rise, tremor, jitter."""
    num = len(tracks["jaw"])
    time = np.arange(num)
    start, stop = tracks["begin"][0], tracks["end"][0]
    progress = np.clip((time - start) / max(stop - start, 1), 0, 1)
    accents = gaussian_filter1d(tracks["stress"], 0.05 * RATE) * 0.55
    drift = gaussian_filter1d(rng.normal(size=num), 0.08 * RATE) * 0.45
    octaves = manner.slope * (progress - 0.4) + manner.pitch_range * (accents - 0.12 + 0.5 * drift)
    octaves += manner.final_rise * np.clip((time - stop) / (0.35 * RATE) + 1, 0, 1) ** 2
    phase = rng.uniform(0, 2 * np.pi)
    octaves += manner.tremor * np.sin(2 * np.pi * 7.0 * time / RATE + phase)
    octaves += (0.008 + 0.10 * manner.creak) * rng.normal(size=num)
    return voice.pitch * manner.pitch * 2.0**octaves * (1 - 0.18 * manner.creak)


def _sound(tracks: dict[str, np.ndarray], voice: Voice, manner: Manner, rng: np.random.Generator) -> np.ndarray:
    """Waveform float32 (num * HOP,)."""
    num = len(tracks["jaw"])
    grid, fine = np.arange(num) + 0.5, (np.arange(num * HOP) + 0.5) / HOP
    upsample = lambda track: np.interp(fine, grid, track)  # noqa: E731

    phase = np.cumsum(upsample(_pitch(tracks, voice, manner, rng))) / SAMPLE_RATE
    source = _glottal_pulses(phase, manner, rng)
    level = upsample(gaussian_filter1d(tracks["voice"], 0.008 * RATE))
    breath = manner.breath * rng.normal(size=len(fine)) * level
    tract = voice.tract * manner.tract
    formants = [gaussian_filter1d(tracks[name], 0.016 * RATE) * tract for name in ("f1", "f2", "f3")]
    formants.append(np.full(num, 3500.0 * tract))
    voiced = _resonators(source * level + breath, formants)
    voiced = (1 - 0.55 * manner.nasal) * voiced + manner.nasal * _murmur(source * level)

    noise_level = upsample(gaussian_filter1d(tracks["noise"], 0.004 * RATE))
    noise = _band(rng.normal(size=len(fine)) * noise_level, tracks["noise_hz"])
    gain = 0.075 * 10 ** (manner.energy / 20)
    speech = gain * (voiced + 0.55 * noise) + 2e-4 * rng.normal(size=len(fine))
    return np.tanh(speech).astype(np.float32)


def _glottal_pulses(phase: np.ndarray, manner: Manner, rng: np.random.Generator) -> np.ndarray:
    """Derivative of Rosenberg's glottal flow; brightness shortens the closing, dullness filters it."""
    cycle = phase - np.floor(phase)
    opening, closing = 0.42 - 0.08 * manner.brightness, 0.20 - 0.10 * manner.brightness
    flow = np.where(cycle < opening, np.sin(np.pi * cycle / opening) * 0.5 / opening, 0.0)
    shut = (cycle >= opening) & (cycle < opening + closing)
    flow = np.where(shut, -np.sin(0.5 * np.pi * (cycle - opening) / closing) / closing, flow)
    shimmer = 1 + (0.04 + 0.35 * manner.creak) * rng.normal(size=int(phase[-1]) + 2)
    flow = flow * shimmer[np.floor(phase).astype(int)] / 3
    pole = float(np.clip(0.35 - 0.35 * manner.brightness, 0.0, 0.8))
    return lfilter([1 - pole], [1, -pole], flow - flow.mean())


def _resonators(signal: np.ndarray, formants: list[np.ndarray]) -> np.ndarray:
    """Cascade of Klatt resonators whose frequencies change every two hops, filter state carried on."""
    block = 2
    centres = np.stack([np.minimum(f[::block], 7000.0) for f in formants], axis=1)  # (blocks, 4)
    radius = np.exp(-np.pi * np.array(BANDWIDTHS) / SAMPLE_RATE)
    a1, a2 = -2 * radius * np.cos(2 * np.pi * centres / SAMPLE_RATE), np.broadcast_to(radius**2, centres.shape)
    zero, one = np.zeros_like(a1), np.ones_like(a1)
    sections = np.stack([1 + a1 + a2, zero, zero, one, a1, a2], axis=-1)  # (blocks, 4, 6)
    state = np.zeros((len(formants), 2))
    out = np.empty_like(signal)
    for index, sos in enumerate(sections):
        span = slice(index * block * HOP, (index + 1) * block * HOP)
        out[span], state = sosfilt(sos, signal[span], zi=state)
    return out


def _murmur(signal: np.ndarray) -> np.ndarray:
    """The nose beside the mouth: fixed resonances of the nasal tract."""
    return sosfilt(butter(2, (180, 420), "bandpass", fs=SAMPLE_RATE, output="sos"), signal) + 0.7 * sosfilt(
        butter(2, (900, 1150), "bandpass", fs=SAMPLE_RATE, output="sos"), signal
    )


def _band(noise: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Noise through one resonance that follows `centre` (Hz on the 5 ms grid)."""
    block = 2
    state = np.zeros(2)
    out = np.empty_like(noise)
    for index, frequency in enumerate(centre[::block]):
        radius = np.exp(-np.pi * 0.35 * frequency / SAMPLE_RATE)
        a = [1, -2 * radius * np.cos(2 * np.pi * frequency / SAMPLE_RATE), radius**2]
        span = slice(index * block * HOP, (index + 1) * block * HOP)
        out[span], state = lfilter([1 - radius, 0, radius - 1], a, noise[span], zi=state)
    return out
