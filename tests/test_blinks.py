"""Blinks: as often as people do, by the seed, with the lids and nothing else."""

import torch
from emohead.datamodules.synthetic.face import synthetic_face_model
from emohead.models.blinks import SHUT, add_blinks, blink_track, eyelid_opening
from emohead.models.face_model import POSE_DIM


def test_people_blink_twenty_six_times_a_minute():
    tracks = [blink_track(1500, seed) for seed in range(40)]
    counts = torch.tensor([int(((t[1:] > 0) & (t[:-1] == 0)).sum()) for t in tracks]).float()
    assert 22 < counts.mean() < 29
    assert counts.std() > 1
    assert torch.equal(tracks[3], blink_track(1500, 3))
    assert not torch.equal(tracks[3], tracks[4])
    assert all(float(track.max()) == max(SHUT) for track in tracks)


def test_lids_close_and_the_mouth_stays():
    model = synthetic_face_model()
    motion = torch.zeros(250, model.motion_dim)
    motion[:, 0] = torch.linspace(0, 0.6, 250)  # the jaw
    std = torch.full((model.motion_dim,), 0.2)
    blinking = add_blinks(motion, model, std, seed=1)
    track = blink_track(250, 1)
    before, after = (eyelid_opening(model, m[:, :-POSE_DIM]) for m in (motion, blinking))
    assert (after[track == 1] < 0.4 * before[track == 1]).all()
    assert torch.equal(blinking[track == 0], motion[track == 0])
    identity = torch.zeros(model.num_identity)
    mouths = [model.mouth_opening(identity[None], m) for m in (motion, blinking)]
    assert (mouths[0] - mouths[1]).abs().max() < 0.01
    assert torch.equal(blinking[:, -POSE_DIM:], motion[:, -POSE_DIM:])
