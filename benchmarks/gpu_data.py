"""Rows of the acceptance run that bring data to the GPU."""

import hashlib
import itertools
import time

import torch
from emohead.datamodules.config import DataConfig
from emohead.datamodules.module import TalkingFaceData
from emohead.trainers.run.gpu import beside_the_work
from gpu_rows import Machine, moved, run_row, tell


def loader(machine: Machine, words: list[str]) -> None:
    """Batches of the face stage from the tiny chain's tars to the device: STAGE; by 1 to 16 workers; after `chain`.

    What has arrived is brought back and hashed: the same for any number of workers, or memory was reused too soon.
    """
    (name,) = words
    count = 4 if machine.tiny else 200
    hashes = {}
    for workers in (1, 2) if machine.tiny else (1, 2, 4, 8, 16):
        config = DataConfig(shards=[str(machine.folder / "chain" / "data")], batch_size=8, num_workers=workers)
        data = TalkingFaceData(name, config)
        batches = itertools.islice(iter(data.train_dataloader()), count)
        first, digest, began = next(batches), hashlib.sha256(), time.perf_counter()
        arrived = [moved(first, machine.device)]
        for batch in batches:
            with beside_the_work(machine.device) as come:
                arrived.append(come(moved(batch, machine.device)))
        machine.wait()
        seconds = time.perf_counter() - began
        for batch in arrived:
            for key in sorted(batch):
                if isinstance(batch[key], torch.Tensor):
                    digest.update(batch[key].cpu().contiguous().numpy().tobytes())
        hashes[workers] = digest.hexdigest()
        tell(f"{name}, workers: {workers}", samples_s=8 * (count - 1) / seconds, equal=hashes[workers] == hashes[1])


if __name__ == "__main__":
    run_row({"loader": loader})
