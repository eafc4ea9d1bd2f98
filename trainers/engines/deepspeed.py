"""An engine on DeepSpeed, ZeRO 0 to 3, on GPUs with NCCL and on CPUs with gloo.

Each network has a DeepSpeed engine of its own, in float32; mixed precision is autocast, as without DeepSpeed, so that
`bf16-mixed` means one thing. Forward passes go through the plain modules: a pass through two DeepSpeed engines for one
batch fails at stages 0 and 2 and gives wrong gradients at stage 1.

DeepSpeed keeps the address of every parameter's shards. Through these addresses each rank saves and loads its own, so
that a checkpoint of any ZeRO stage and number of ranks can be read by any other.
"""

import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from .late import Late
from .plain import STATE, Engine, LossScale
from .shares import Share, Source

HOLDER = -1  # no module's id
BUCKET = 50_000_000  # values that travel together, at most
MESSAGE = 2**20  # bytes to a rank from which the time to send them counts for more than the time to start

Sharded = Any  # an nn.Parameter with what DeepSpeed attaches to it: ds_shape, ds_numel, _hp_mapping and so on


class Fragment(NamedTuple):
    """The place of a part of a parameter in this rank's share of an optimizer's flat group."""

    start: int  # in the flattened parameter
    numel: int
    flat: Tensor  # the optimizer's key of the group
    offset: int  # in `flat`


class DeepSpeedEngine(Engine):
    """One network, its optimizer, and the DeepSpeed engine around both. The process group must be there already."""

    optimizer: Any  # DeepSpeed's around PyTorch's; at stage 0 PyTorch's own

    def __init__(
        self,
        module: nn.Module,
        optimizer: Optimizer,
        *,
        clip_norm: float,
        scale: LossScale,
        zero_stage: int,
        offload: bool,
        device: torch.device,
        local_rank: int,
    ) -> None:
        super().__init__(module, optimizer, clip_norm=clip_norm, scale=scale)
        self.zero_stage, self.offload = zero_stage, offload
        if zero_stage == 3:
            shard(module, device=device, local_rank=local_rank)
        else:
            make_dense(module)
        deepspeed = import_deepspeed(device, local_rank)
        size = sum(whole_shape(p).numel() for p in module.parameters() if p.requires_grad)
        self.engine, self.optimizer, *_ = deepspeed.initialize(
            model=module,
            optimizer=optimizer,
            config=configuration(zero_stage, offload, clip_norm, size, dist.get_world_size()),
            dist_init_required=False,
        )
        # DeepSpeed scales losses only in its half-precision engines; ours is a float32 one.
        if zero_stage:
            self.optimizer.custom_loss_scaler = True

    def backward(self, loss: Tensor, *, last: bool = True) -> None:
        if self.zero_stage:
            self.optimizer.external_loss_scale = self.scale.scale
        else:
            loss = loss * self.scale.scale
        self.engine.set_gradient_accumulation_boundary(last)
        self.engine.backward(loss, scale_wrt_gas=False)

    def step(self) -> Late:
        norm = Late(self._step_sharded() if self.zero_stage else self._step_whole())  # DeepSpeed has waited for it
        self.scale.update(norm)
        return norm

    def _step_sharded(self) -> float:
        self.engine.step()  # unscales, clips, and skips if the norm is not finite
        self._forget_gradients()
        return float(self.engine.get_global_grad_norm())

    def _forget_gradients(self) -> None:
        """Without this, a parameter that the next loss does not touch would be moved by this gradient again."""
        if self.offload:
            self.optimizer.norm_for_param_grads.clear()
            for flat in self._flat_groups():
                if flat.grad is not None:
                    flat.grad.zero_()
        elif self.zero_stage == 3:
            self.optimizer.grad_partitions_flat_buffer.zero_()

    def _step_whole(self) -> float:
        """ZeRO-0: DeepSpeed clips and steps without checking that the norm is finite."""
        gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
        if self.scale.enabled:
            torch._foreach_div_(gradients, self.scale.scale)
        norm = float(nn.utils.get_total_norm(gradients))
        if norm < float("inf"):
            self.engine.step()
        else:
            self.engine.zero_grad()
        return norm

    @contextmanager
    def whole(self) -> Iterator[None]:
        if self.zero_stage < 3:
            yield
            return
        import deepspeed

        parameters: list[Sharded] = list(self.module.parameters())
        with deepspeed.zero.GatheredParameters(parameters):
            for parameter in parameters:  # a user that never leaves: no module's hook frees them after its pass
                parameter.ds_active_sub_modules.add(HOLDER)
            try:
                yield
            finally:
                for parameter in parameters:
                    parameter.ds_active_sub_modules.discard(HOLDER)

    def _held(self, tensor: Sharded) -> Share:
        if not hasattr(tensor, "ds_tensor"):
            return super()._held(tensor)
        start, values = own_part(tensor)
        return Share(values, tensor.ds_shape, start, everywhere=False)

    def _remembered(self) -> dict[str, Share]:
        states, found = self._states(), {}
        if not self.zero_stage or not states:
            return super()._remembered() if not self.zero_stage else {}
        step = torch.as_tensor(next(iter(states.values()))["step"])  # that of all
        for name, parameter in self._trained():
            found[f"step.{name}"] = Share(step, step.shape)
            fragment = self._fragment(parameter)
            if fragment is None:
                continue
            for key in STATE[:2]:
                values = states[fragment.flat][key].narrow(0, fragment.offset, fragment.numel)
                found[f"{key}.{name}"] = Share(values, whole_shape(parameter), fragment.start, everywhere=False)
        return found

    def frozen(self) -> Iterator[tuple[str, Tensor]]:
        if self.zero_stage < 3:
            yield from super().frozen()
            return
        import deepspeed

        held = self.module.state_dict(keep_vars=True)
        for name in self.frozen_names:
            with deepspeed.zero.GatheredParameters([held[name]]):
                yield f"weights.{name}", held[name].detach()

    def load(self, source: Source) -> None:
        if not self.zero_stage:
            super().load(source)
            return
        if self.zero_stage == 3:
            self._load_weights(source)
        trained, states = self._trained(), self._states()
        if f"step.{trained[0][0]}" not in source:
            return  # no step had been done
        step = source.part(f"step.{trained[0][0]}", 0, 1).view(())
        for flat in self._flat_groups():  # those too that hold nothing here but padding: they count steps
            moments = {key: torch.zeros_like(flat) for key in STATE[:2]}
            states[flat] = moments | {"step": step.to(flat.device, copy=True)}
        for name, parameter in trained:
            fragment = self._fragment(parameter)
            if fragment is None:
                continue
            for key in STATE[:2]:
                given = source.part(f"{key}.{name}", fragment.start, fragment.numel)
                states[fragment.flat][key].narrow(0, fragment.offset, fragment.numel).copy_(given)

    @torch.no_grad()
    def _load_weights(self, source: Source) -> None:
        """ZeRO-3: each rank reads its own part of the weights, which DeepSpeed holds twice."""
        for name, parameter in self.module.named_parameters():
            start, values = own_part(parameter)
            if values.numel():
                values.copy_(source.part(f"weights.{name}", start, values.numel()))
        for _, parameter in self._trained():
            fragment = self._fragment(parameter)
            if fragment is not None:
                fragment.flat.narrow(0, fragment.offset, fragment.numel).copy_(own_part(parameter)[1])
        small: list[Sharded] = self.optimizer.persistent_parameters  # whole on each rank as well
        if small:
            small[0].partition(small)
            small[0].all_gather(small)

    def _trained(self) -> list[tuple[str, Sharded]]:
        return [(name, p) for name, p in self.module.named_parameters() if name not in self.frozen_names]

    def _states(self) -> dict[Any, Any]:
        """The state of PyTorch's optimizer: by parameter at stage 0, by flat group otherwise."""
        return self.optimizer.optimizer.state if self.zero_stage else self.optimizer.state

    def _flat_groups(self) -> list[Tensor]:
        """This rank's share of each group of parameters."""
        sharded = self.optimizer
        third = self.zero_stage == 3
        return sharded.fp32_partitioned_groups_flat if third else sharded.single_partition_of_fp32_groups

    def _fragment(self, parameter: Sharded) -> Fragment | None:
        """This rank's share of a parameter; None if it has none."""
        if self.zero_stage < 3:
            mapping = parameter._hp_mapping
            if mapping is None:
                return None
            flat = self._flat_groups()[mapping.param_group_index]
            whole, held = mapping.lp_fragment_address, mapping.hp_fragment_address
            return Fragment(whole.start, whole.numel, flat, held.start)
        group, offset, _ = self.optimizer.grad_position[self.optimizer.get_param_id(parameter)]
        start, values = own_part(parameter)
        return Fragment(start, values.numel(), self._flat_groups()[group], offset) if values.numel() else None


def shard(module: nn.Module, *, device: torch.device, local_rank: int) -> None:
    """Leave each rank its part of every parameter, as ZeRO-3 has it: a second call does nothing.

    Each parameter by itself comes to the device, with rank 0's values, and all but a part goes: at no time does a GPU
    hold a whole network. Optimizers must be there already, since they ask for the shapes of whole parameters.
    """
    if any(hasattr(parameter, "ds_id") for parameter in module.parameters()):
        return
    deepspeed = import_deepspeed(device, local_rank)
    make_dense(module)
    # They reach into their children's weights; the last one is transformers'.
    leaves = [nn.MultiheadAttention, nn.TransformerEncoderLayer, "WavLMAttention"]
    deepspeed.utils.set_z3_leaf_modules(module, leaves, raise_if_not_found=False)
    deepspeed.zero.Init(module=module, mem_efficient_linear=False, dtype=torch.float32)


def make_dense(module: nn.Module) -> None:
    """DeepSpeed reads tensors as bytes in a row."""
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)


def whole_shape(parameter: Sharded) -> torch.Size:
    """Shape of the whole parameter; ZeRO-3 leaves an empty tensor in its place."""
    return parameter.ds_shape if hasattr(parameter, "ds_shape") else parameter.shape


def own_part(parameter: Sharded) -> tuple[int, Tensor]:
    """This rank's part of a parameter of ZeRO-3, by reference: its start in the flattened parameter, and its values."""
    held = parameter.ds_tensor
    start = held.ds_numel * dist.get_rank()
    return start, held.narrow(0, 0, min(held.ds_numel, max(0, parameter.ds_numel - start)))  # the last ones are padded


def configuration(zero_stage: int, offload: bool, clip_norm: float, size: int, num_ranks: int) -> dict[str, Any]:
    """DeepSpeed's configuration. It needs batch sizes but has no use for them: the stage cuts its batches itself.

    size: values of the network that are trained. Each engine keeps buckets of its own; DeepSpeed's would take 2 GB of
    a GPU each.
    """
    zero: dict[str, Any] = {"stage": zero_stage, "reduce_bucket_size": min(size, BUCKET)}
    zero["memory_efficient_linear"] = False  # its own would replace torch's everywhere, for good
    # ZeRO 1 and 2: each rank gets its share of the gradients in an operation of its own, half the bytes of one that
    # gives all to all; with many ranks or a small network these are too many, too small operations.
    zero["use_multi_rank_bucket_allreduce"] = 4 * size < MESSAGE * num_ranks
    if offload and zero_stage:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": clip_norm if clip_norm < math.inf else 0.0,  # 0: none; without the key 1.0
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": None,
    }


def import_deepspeed(device: torch.device, local_rank: int = 0) -> Any:
    """DeepSpeed, quiet, for this kind of device, of which this process has the one of that number."""
    os.environ["LOCAL_RANK"] = str(local_rank)
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if device.type == "cuda" else "cpu")
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    if device.type == "cpu":
        # DeepSpeed would first compile an operator for shared memory, which takes half a minute; gloo does not need it.
        deepspeed.ops.__compatible_ops__ = {}
    return deepspeed
