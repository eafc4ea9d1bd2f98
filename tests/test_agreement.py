"""What ranks tell each other from step to step: soon enough, and without waiting for it."""

import json
import os
import socket
import subprocess
import sys

import pytest

RANK = """
import json, sys, time, torch.distributed as dist
from emohead.trainers.run import strategy
strategy.LONG = 0.2
rank, seconds = int(sys.argv[1]), float(sys.argv[2])
dist.init_process_group("gloo", rank=rank, world_size=2)
agreement, heard = strategy.Agreement(), []
for step in range(8):
    heard.append(agreement.greatest([float(rank == 1 and step == 5)])[0])
    time.sleep(seconds)
print(json.dumps(heard))
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.parametrize(("seconds", "step"), [(0.0, 6), (0.4, 5)], ids=["short steps", "long steps"])
def test_a_flag_comes_a_step_later_unless_steps_are_long(seconds: float, step: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(server.getsockname()[1]), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), str(seconds)],
            env=os.environ | address,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for rank in ranks:
        heard = json.loads(rank.communicate(timeout=120)[0].splitlines()[-1])
        assert heard.index(1.0) == step, heard
