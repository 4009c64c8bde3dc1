#!/usr/bin/env python3
"""Records what real checkpoint writers do to a directory, system call by system call.

The tests replay these recordings with a pause before every call. They need neither Python nor the libraries; this script is for
making new recordings when a library changes its ways:

    python -m venv venv && venv/bin/pip install torch transformers accelerate pytorch-lightning safetensors numpy
    python -m venv venv-jax && venv-jax/bin/pip install orbax-checkpoint jax
    venv/bin/python record.py            # every writer whose library is there
    venv-jax/bin/python record.py orbax  # or some of them, by name

It needs strace. A recording is one JSON object a line: the call, then its arguments; file content is deflated (raw) and in hex.
`handle` is an open file. A line `{"whole": PATH}` says that the checkpoint at PATH is finished by what its library promises: the call
that saves it has returned. `-` stands for flat files of one step.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zlib

CALLS = (
    "openat,open,creat,close,write,pwrite64,writev,lseek,ftruncate,fallocate,rename,renameat,renameat2,unlink,unlinkat,rmdir,"
    "mkdir,mkdirat,link,linkat,symlink,symlinkat,sendfile,copy_file_range,dup,dup2,dup3,fcntl,access,faccessat,faccessat2,"
    "utimensat,clone,clone3,fork,vfork,mmap"
)
MARK = "/spotter-mark/"


# --- what the writers do -------------------------------------------------------------------------------------------------------


def mark(what, path):
    """Leaves a note in the recording: `whole` or `gone`, with a path relative to the directory."""
    os.access(f"{MARK}{what}/{path}", os.F_OK)


def tiny_torch(step):
    import torch

    model = torch.nn.Linear(24, 16)
    # Equal numbers make short recordings.
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, step)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 24)).sum().backward()
    optimizer.step()
    return model, optimizer


def torch_zip():
    """nanoGPT: one file, saved over itself."""
    import torch

    for step in (10, 20, 30):
        model, optimizer = tiny_torch(step)
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "iter_num": step}, "ckpt.pt")
        mark("whole", "ckpt.pt")


def torch_legacy():
    import torch

    for step in (10, 20):
        model, optimizer = tiny_torch(step)
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "half": torch.ones(7).half()}
        torch.save(state, f"step_{step}.pth", _use_new_zipfile_serialization=False)
        mark("whole", f"step_{step}.pth")


def safetensors_single():
    from safetensors.torch import save_file

    for step in (10, 20):
        model, _ = tiny_torch(step)
        save_file(model.state_dict(), f"model_{step}.safetensors", metadata={"step": str(step)})
        mark("whole", f"model_{step}.safetensors")
    save_file(tiny_torch(30)[0].state_dict(), "model_20.safetensors")
    mark("whole", "model_20.safetensors")


def tiny_llama():
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2
    )
    model = LlamaForCausalLM(config)
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, 0.5)
    return model


def safetensors_sharded():
    model = tiny_llama()
    for step in (10, 20):
        model.save_pretrained(f"step_{step}", max_shard_size="6KB")
        mark("whole", f"step_{step}")


def hf_trainer():
    """Three checkpoints of which two are kept: the oldest is deleted file by file."""
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Marks(TrainerCallback):
        def on_save(self, args, state, control, **_):
            mark("whole", f"checkpoint-{state.global_step}")

    class Data(torch.utils.data.Dataset):
        def __len__(self):
            return 64

        def __getitem__(self, index):
            ids = torch.full((4,), index % 32)
            return {"input_ids": ids, "labels": ids}

    arguments = TrainingArguments(
        output_dir=".", max_steps=3, save_steps=1, save_total_limit=2, per_device_train_batch_size=2, report_to=[], use_cpu=True,
        logging_steps=1, disable_tqdm=True,
    )
    Trainer(model=tiny_llama(), args=arguments, train_dataset=Data(), callbacks=[Marks()]).train()


def hf_rank(rank):
    import time

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=os.environ["SPOTTER_PORT"])
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", ACCELERATE_USE_CPU="true")
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Marks(TrainerCallback):
        def on_save(self, args, state, control, **_):
            torch.distributed.barrier()
            if rank == 0:
                mark("whole", f"checkpoint-{state.global_step}")

    class Data(torch.utils.data.Dataset):
        def __len__(self):
            return 64

        def __getitem__(self, index):
            ids = torch.full((4,), index % 32)
            return {"input_ids": ids, "labels": ids}

    class Late(Trainer):
        def _save_rng_state(self, output_dir):
            # No barrier holds rank 0 back: it goes on to trainer_state.json, and to its callbacks.
            time.sleep(rank * 2)
            super()._save_rng_state(output_dir)

    arguments = TrainingArguments(
        output_dir=".", max_steps=3, save_steps=1, save_total_limit=2, per_device_train_batch_size=2, report_to=[], use_cpu=True,
        logging_steps=1, disable_tqdm=True,
    )
    Late(model=tiny_llama(), args=arguments, train_dataset=Data(), callbacks=[Marks()]).train()
    torch.distributed.destroy_process_group()


def hf_two_ranks():
    """Two ranks, of which the second writes its random state after rank 0 has written trainer_state.json."""
    two_ranks(hf_rank)


def lightning():
    import pytorch_lightning as pl
    import torch

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(4, 4)

        def training_step(self, batch, _):
            return self.layer(batch).sum()

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters())

        def train_dataloader(self):
            return torch.utils.data.DataLoader(torch.ones(4, 4), batch_size=2)

    class Marks(pl.callbacks.ModelCheckpoint):
        def _save_checkpoint(self, trainer, filepath):
            super()._save_checkpoint(trainer, filepath)
            mark("whole", os.path.basename(filepath))

    saves = Marks(dirpath=".", every_n_train_steps=2, save_top_k=-1, save_last=True, filename="{epoch}-{step}")
    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", callbacks=[saves], logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=".",
    )
    trainer.fit(Module())


def lightning_across_disks():
    """As on a box whose volume is another file system than /tmp: the file is copied in place."""
    lightning()


def dcp_state(step):
    return {"model": tiny_torch(step)[0].state_dict(), "step": step}


def dcp_rank(rank, dirs):
    import warnings

    import torch.distributed as dist
    import torch.distributed.checkpoint as dcp

    warnings.filterwarnings("ignore")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=os.environ["SPOTTER_PORT"])
    dist.init_process_group("gloo", rank=rank, world_size=2)
    for step, (name, gone) in enumerate(dirs):
        model, _ = tiny_torch(step)
        state = {"model": model.state_dict(), f"rank{rank}": {"step": step}}
        dcp.save(state, checkpoint_id=name)
        dist.barrier()
        if rank == 0:
            mark("whole", name)
            if gone:
                mark("gone", gone)
                shutil.rmtree(gone, ignore_errors=True)
        dist.barrier()
    dist.destroy_process_group()


def two_ranks(function, *arguments):
    import multiprocessing
    import socket

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        os.environ["SPOTTER_PORT"] = str(server.getsockname()[1])
    spawn = multiprocessing.get_context("spawn")
    ranks = [spawn.Process(target=function, args=(rank, *arguments)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
        assert rank.exitcode == 0


def dcp():
    """Two ranks; the second save goes into the directory of the first."""
    two_ranks(dcp_rank, [("state_10", None), ("state_10", None), ("state_20", None)])


def torchtitan():
    """DCP under torchtitan's names, with its purge of the oldest."""
    two_ranks(dcp_rank, [("step-10", None), ("step-20", None), ("step-30", "step-10")])


def deepspeed_rank(rank, steps, stage):
    import time

    import torch

    for step in steps:
        tag = f"global_step{step}"
        os.makedirs(tag, exist_ok=True)
        model, optimizer = tiny_torch(step)
        if rank == 1:
            time.sleep(0.4)
        if rank == 0 or stage == 3:
            module = {"module": model.state_dict(), "dp_world_size": 2, "mp_world_size": 1, "global_steps": step}
            part = f"zero_pp_rank_{rank}_" if stage == 3 else ""
            torch.save(module, f"{tag}/{part}mp_rank_00_model_states.pt")
        zero = {"optimizer_state_dict": optimizer.state_dict(), "ds_config": {"zero_optimization": {"stage": stage}}}
        torch.save(zero, f"{tag}/bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
        if rank == 0:
            with open("latest", "w") as latest:
                latest.write(tag)
            time.sleep(1.0)
            mark("whole", tag)
        else:
            time.sleep(0.8)


def deepspeed():
    """The order of DeepSpeed's engine with two ranks: rank 0 writes `latest` while rank 1 may still be writing."""
    two_ranks(deepspeed_rank, [10, 20], 2)


def deepspeed_zero3():
    """The same with ZeRO-3: each rank has its part of the model, too."""
    two_ranks(deepspeed_rank, [10, 20], 3)


def megatron_end(name, step):
    """What follows the barrier: the tracker, then the tokenizer's files."""
    with open("latest_checkpointed_iteration.txt", "w") as tracker:
        tracker.write(str(step))
    os.makedirs(f"{name}/tokenizer")
    for asset in ("tokenizer_config.json", "tokenizer.json"):
        with open(f"{name}/tokenizer/{asset}", "w") as out:
            json.dump({"model_max_length": 64}, out)
    mark("whole", name)


def megatron():
    """The order of Megatron-LM (torch format): ranks, barrier, tracker, then tokenizer assets."""
    import torch

    for step in (100, 200):
        name = f"iter_{step:07d}"
        for rank in range(2):
            os.makedirs(f"{name}/mp_rank_{rank:02d}", exist_ok=True)
            model, optimizer = tiny_torch(step + rank)
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "iteration": step}
            torch.save(state, f"{name}/mp_rank_{rank:02d}/model_optim_rng.pt")
        megatron_end(name, step)


def megatron_dist():
    """The order of Megatron-LM (torch_dist format): common state, DCP, metadata, tracker, then tokenizer assets."""
    import warnings

    import torch
    import torch.distributed.checkpoint as dcp

    warnings.filterwarnings("ignore")
    for step in (100, 200):
        name = f"iter_{step:07d}"
        os.makedirs(name)
        torch.save({"iteration": step, "args": {"lr": 0.1}}, f"{name}/common.pt")
        dcp.save(dcp_state(step), checkpoint_id=name, no_dist=True)
        with open(f"{name}/metadata.json", "w") as metadata:
            json.dump({"sharded_backend": "torch_dist", "sharded_backend_version": 1}, metadata)
        megatron_end(name, step)


def nanochat_rank(rank, steps):
    import time

    import torch

    for step in steps:
        model, optimizer = tiny_torch(step)
        if rank == 0:
            torch.save(model.state_dict(), f"model_{step:06d}.pt")
            with open(f"meta_{step:06d}.json", "w", encoding="utf-8") as meta:
                json.dump({"step": step, "val_bpb": 1.5, "model_config": {"n_layer": 1}}, meta, indent=2)
        else:
            time.sleep(0.5)
        torch.save(optimizer.state_dict(), f"optim_{step:06d}_rank{rank}.pt")
        if rank == 0:
            time.sleep(1.2)
            mark("whole", f"-{step}")
        else:
            time.sleep(0.7)


def nanochat():
    """The order of nanochat with two ranks: flat files, the optimizer's by rank."""
    two_ranks(nanochat_rank, [100, 200])


def accelerate():
    """As diffusers' scripts save: `checkpoint-N` without a trainer_state.json."""
    import torch
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model, optimizer = tiny_torch(1)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
    model, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)
    for step in (10, 20):
        accelerator.save_state(f"checkpoint-{step}")
        mark("whole", f"checkpoint-{step}")


def numpy_files():
    import numpy

    for step in (10, 20):
        numpy.savez(f"state_{step}.npz", w=numpy.full((8, 9), step), b=numpy.arange(5.0))
        mark("whole", f"state_{step}.npz")
        numpy.save(f"params_{step + 1}.npy", numpy.full((8, 9), step, dtype="float32"))
        mark("whole", f"params_{step + 1}.npy")
    numpy.savez_compressed("last.npz", w=numpy.full((8, 9), 5))
    mark("whole", "last.npz")


def generic():
    """A writer that nobody knows: a directory of odd files, and one odd file."""
    for step in (10, 20):
        os.mkdir(f"save-{step}")
        for name, size in (("weights.bin", 3000), ("optimizer.bin", 5000), ("notes.txt", 10)):
            with open(f"save-{step}/{name}", "wb") as out:
                for _ in range(3):
                    out.write(bytes([step]) * (size // 3))
                    out.flush()
        mark("whole", f"save-{step}")
        with open(f"blob_{step}.dat", "wb") as out:
            out.write(b"blob" * step)
        mark("whole", f"blob_{step}.dat")


def user_pieces(name, save):
    """Files that nothing speaks for, each in pieces."""
    os.makedirs(name, exist_ok=True)
    for file in ("weights.bin", "optimizer.bin"):
        with open(f"{name}/{file}", "wb") as out:
            for _ in range(3):
                out.write(bytes([save]) * 500)
                out.flush()


def user_marker():
    """Markers beside: for directories, of which the last is saved again while its old marker stands, and for a file."""
    for save, step in enumerate((10, 20, 20)):
        user_pieces(f"save-{step}", save)
        with open(f"save-{step}.ok", "w") as marker:
            marker.write(str(save))
        mark("whole", f"save-{step}")
    for save in range(2):
        with open("blob_30.dat", "wb") as out:
            out.write(bytes([save]) * 900)
        with open("blob_30.dat.ok", "w") as marker:
            marker.write(str(save))
        mark("whole", "-30")


def user_done():
    """Something inside says that it is whole, and goes before the same directory is used again."""
    for save, step in enumerate((10, 20, 20)):
        if os.path.exists(f"save-{step}/DONE"):
            os.unlink(f"save-{step}/DONE")
        user_pieces(f"save-{step}", save)
        with open(f"save-{step}/DONE", "w"):
            pass
        mark("whole", f"save-{step}")


def orbax_commit_file():
    """As in a bucket, where no directory can be renamed: a marker is put last."""
    from orbax.checkpoint._src.path import atomicity

    orbax(temporary_path_class=atomicity.CommitFileTemporaryPath)


def orbax_rename_only():
    """As older versions did it: nothing but the rename says that it is whole."""
    from orbax.checkpoint._src.path import atomicity

    write = atomicity.async_path.write_text

    async def write_others(path, text, *arguments, **named):
        if os.path.basename(path) != "commit_success.txt":
            await write(path, text, *arguments, **named)

    atomicity.async_path.write_text = write_others
    orbax()


def orbax(**ways):
    import jax.numpy as jnp
    import orbax.checkpoint as ocp

    options = ocp.CheckpointManagerOptions(max_to_keep=2, create=True, **ways)
    with ocp.CheckpointManager(os.getcwd(), options=options) as manager:
        for step in (10, 20, 30):
            tree = {"w": jnp.full((8, 8), step, dtype=jnp.float32), "b": jnp.arange(5.0), "step": step}
            manager.save(step, args=ocp.args.StandardSave(tree))
            manager.wait_until_finished()
            mark("whole", str(step))


WRITERS = {
    "torch-zip": torch_zip,
    "torch-legacy": torch_legacy,
    "safetensors": safetensors_single,
    "safetensors-sharded": safetensors_sharded,
    "hf-trainer": hf_trainer,
    "hf-two-ranks": hf_two_ranks,
    "lightning": lightning,
    "lightning-across-disks": lightning_across_disks,
    "dcp": dcp,
    "torchtitan": torchtitan,
    "deepspeed": deepspeed,
    "deepspeed-zero3": deepspeed_zero3,
    "megatron": megatron,
    "megatron-dist": megatron_dist,
    "nanochat": nanochat,
    "accelerate": accelerate,
    "numpy": numpy_files,
    "generic": generic,
    "user-marker": user_marker,
    "user-done": user_done,
    "orbax": orbax,
    "orbax-commit-file": orbax_commit_file,
    "orbax-rename-only": orbax_rename_only,
}


# --- reading strace ------------------------------------------------------------------------------------------------------------


class File:
    def __init__(self):
        self.data = bytearray()


class Open:
    """An open file description."""

    def __init__(self, path, file, handle, append):
        self.path, self.file, self.handle, self.append, self.position = path, file, handle, append, 0


class Recording:
    """Turns the lines of strace into calls on paths below `root`, knowing the content of every file below the watched roots."""

    def __init__(self, root, others):
        self.root, self.watched = root, [root, *others]
        self.files, self.tables, self.calls, self.waiting, self.handles = {}, {}, [], {}, 0

    def inside(self, path):
        return path == self.root or path.startswith(self.root + "/")

    def is_watched(self, path):
        return any(path == root or path.startswith(root + "/") for root in self.watched)

    def relative(self, path):
        return os.path.relpath(path, self.root)

    def emit(self, call, **arguments):
        self.calls.append({"call": call, **arguments})

    def absolute(self, table, directory, path):
        if not path.startswith("/"):
            base = self.root
            if directory != "AT_FDCWD":
                opened = table.get(int(directory))
                base = opened.path if opened else self.root
            path = os.path.join(base, path)
        return os.path.normpath(path)

    def line(self, line):
        pid, rest = line.split(None, 1)
        pid = int(pid)
        if "<unfinished ...>" in rest:
            rest = rest.split("<unfinished ...>")[0]
            # The number is free before the call returns, and another thread may have it by then.
            if rest.startswith("close("):
                self.on_close(self.tables.setdefault(pid, {}), [rest[len("close(") :].rstrip(" )")], 0)
            else:
                self.waiting[pid] = rest
            return
        resumed = re.match(r"<\.\.\. \w+ resumed>(.*)", rest, re.S)
        if resumed:
            rest = self.waiting.pop(pid, "") + resumed.group(1)
        match = re.match(r"(\w+)\((.*)\)\s+= (-?\d+|0x[0-9a-f]+|\?)(.*)$", rest.strip(), re.S)
        if not match:
            return
        name, arguments, result = match.group(1), split_arguments(match.group(2)), match.group(3)
        if result == "?":
            return
        result = int(result, 0)
        if name in ("access", "faccessat", "faccessat2"):
            text = unquote(arguments[0] if name == "access" else arguments[1]).decode()
            if text.startswith(MARK):
                what, path = text[len(MARK) :].split("/", 1)
                self.calls.append({what: path})
            return
        if result < 0:
            return
        table = self.tables.setdefault(pid, {})
        if name in ("clone", "clone3", "fork", "vfork"):
            shares = "CLONE_FILES" in match.group(2)
            # The child may have been seen before its parent's call returned.
            known = self.tables.get(result)
            if shares:
                if known:
                    table.update(known)
                self.tables[result] = table
            else:
                self.tables[result] = {**table, **(known or {})}
            return
        handler = getattr(self, "on_" + name, None)
        if handler:
            handler(table, arguments, result)

    def on_openat(self, table, arguments, fd):
        path = self.absolute(table, arguments[0], unquote(arguments[1]).decode())
        self.opened(table, path, arguments[2], fd)

    def on_open(self, table, arguments, fd):
        self.opened(table, self.absolute(table, "AT_FDCWD", unquote(arguments[0]).decode()), arguments[1], fd)

    def opened(self, table, path, flags, fd):
        table.pop(fd, None)
        if not self.is_watched(path):
            return
        writes = "O_WRONLY" in flags or "O_RDWR" in flags
        if "O_DIRECTORY" in flags or not writes:
            table[fd] = Open(path, self.files.get(path), None, False)
            return
        fresh = "O_TRUNC" in flags or path not in self.files
        file = self.files.setdefault(path, File())
        if "O_TRUNC" in flags:
            file.data.clear()
        self.handles += 1
        table[fd] = Open(path, file, self.handles, "O_APPEND" in flags)
        if self.inside(path):
            self.emit("open", path=self.relative(path), handle=self.handles, truncate="O_TRUNC" in flags or fresh)

    def on_close(self, table, arguments, _):
        opened = table.pop(int(arguments[0]), None)
        still_open = opened and any(one is opened for other in self.tables.values() for one in other.values())
        if opened and opened.handle and self.inside(opened.path) and not still_open:
            self.emit("close", handle=opened.handle)

    def on_dup(self, table, arguments, fd):
        if int(arguments[0]) in table:
            table[fd] = table[int(arguments[0])]

    on_dup2 = on_dup3 = on_dup

    def on_fcntl(self, table, arguments, fd):
        if arguments[1].startswith("F_DUPFD"):
            self.on_dup(table, arguments, fd)

    def wrote(self, opened, offset, data):
        end = offset + len(data)
        if len(opened.file.data) < end:
            opened.file.data.extend(bytes(end - len(opened.file.data)))
        opened.file.data[offset:end] = data
        if self.inside(opened.path) and data:
            self.emit("write", handle=opened.handle, offset=offset, data=packed(data))

    def append(self, opened, data):
        offset = len(opened.file.data) if opened.append else opened.position
        self.wrote(opened, offset, data)
        opened.position = offset + len(data)

    def writable(self, table, fd):
        opened = table.get(int(fd))
        return opened if opened and opened.handle else None

    def on_write(self, table, arguments, count):
        if opened := self.writable(table, arguments[0]):
            self.append(opened, unquote(arguments[1])[:count])

    def on_writev(self, table, arguments, count):
        if opened := self.writable(table, arguments[0]):
            pieces = re.findall(r'iov_base=("(?:[^"\\]|\\.)*")', arguments[1])
            self.append(opened, b"".join(unquote(piece) for piece in pieces)[:count])

    def on_pwrite64(self, table, arguments, count):
        if opened := self.writable(table, arguments[0]):
            self.wrote(opened, int(arguments[3]), unquote(arguments[1])[:count])

    def on_lseek(self, table, arguments, position):
        if int(arguments[0]) in table:
            table[int(arguments[0])].position = position

    def on_sendfile(self, table, arguments, count):
        if opened := self.writable(table, arguments[0]):
            source = table[int(arguments[1])]
            offset = source.position if arguments[2] == "NULL" else int(re.search(r"\d+", arguments[2]).group())
            self.append(opened, bytes(source.file.data[offset : offset + count]))
            if arguments[2] == "NULL":
                source.position += count

    def on_copy_file_range(self, table, arguments, count):
        if opened := self.writable(table, arguments[2]):
            source = table[int(arguments[0])]
            self.append(opened, bytes(source.file.data[source.position : source.position + count]))
            source.position += count

    def on_ftruncate(self, table, arguments, _):
        if opened := self.writable(table, arguments[0]):
            size = int(arguments[1])
            data = opened.file.data
            data[size:] = b""
            data.extend(bytes(size - len(data)))
            if self.inside(opened.path):
                self.emit("truncate", handle=opened.handle, size=size)

    def on_mmap(self, table, arguments, _):
        if "MAP_SHARED" in arguments[3] and "PROT_WRITE" in arguments[2] and self.writable(table, arguments[4]):
            raise SystemExit("a file is written through a mapping, which strace does not show")

    def on_mkdir(self, table, arguments, _):
        self.made(self.absolute(table, "AT_FDCWD", unquote(arguments[0]).decode()))

    def on_mkdirat(self, table, arguments, _):
        self.made(self.absolute(table, arguments[0], unquote(arguments[1]).decode()))

    def made(self, path):
        if self.inside(path):
            self.emit("mkdir", path=self.relative(path))

    def on_rename(self, table, arguments, _):
        names = [self.absolute(table, "AT_FDCWD", unquote(one).decode()) for one in arguments[:2]]
        self.renamed(*names)

    def on_renameat(self, table, arguments, _):
        old = self.absolute(table, arguments[0], unquote(arguments[1]).decode())
        self.renamed(old, self.absolute(table, arguments[2], unquote(arguments[3]).decode()))

    on_renameat2 = on_renameat

    def renamed(self, old, new):
        for path in list(self.files):
            if path == old or path.startswith(old + "/"):
                self.files[new + path[len(old) :]] = self.files.pop(path)
        for table in self.tables.values():
            for opened in table.values():
                if opened.path == old or opened.path.startswith(old + "/"):
                    opened.path = new + opened.path[len(old) :]
        if self.inside(old) and self.inside(new):
            self.emit("rename", path=self.relative(old), to=self.relative(new))
        elif self.inside(new) or self.inside(old):
            raise SystemExit(f"a rename across the edge of the directory: {old} to {new}")

    def on_unlink(self, table, arguments, _):
        self.removed(self.absolute(table, "AT_FDCWD", unquote(arguments[0]).decode()), "unlink")

    def on_rmdir(self, table, arguments, _):
        self.removed(self.absolute(table, "AT_FDCWD", unquote(arguments[0]).decode()), "rmdir")

    def on_unlinkat(self, table, arguments, _):
        path = self.absolute(table, arguments[0], unquote(arguments[1]).decode())
        self.removed(path, "rmdir" if "AT_REMOVEDIR" in arguments[2] else "unlink")

    def removed(self, path, call):
        self.files.pop(path, None)
        if self.inside(path):
            self.emit(call, path=self.relative(path))

    def on_symlink(self, table, arguments, _):
        path = self.absolute(table, "AT_FDCWD", unquote(arguments[1]).decode())
        if self.inside(path):
            self.emit("symlink", path=self.relative(path), to=unquote(arguments[0]).decode())

    def on_symlinkat(self, table, arguments, _):
        path = self.absolute(table, arguments[1], unquote(arguments[2]).decode())
        if self.inside(path):
            self.emit("symlink", path=self.relative(path), to=unquote(arguments[0]).decode())


def packed(data):
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (deflate.compress(bytes(data)) + deflate.flush()).hex()


def split_arguments(text):
    """Splits at commas outside of strings and brackets."""
    found, depth, start, quoted, at = [], 0, 0, False, 0
    while at < len(text):
        letter = text[at]
        if quoted:
            if letter == "\\":
                at += 1
            elif letter == '"':
                quoted = False
        elif letter == '"':
            quoted = True
        elif letter in "[{(":
            depth += 1
        elif letter in "]})":
            depth -= 1
        elif letter == "," and depth == 0:
            found.append(text[start:at].strip())
            start = at + 1
        at += 1
    found.append(text[start:].strip())
    return found


def unquote(text):
    """The bytes of a string as `strace -xx` prints it."""
    return bytes.fromhex(text[1 : text.rindex('"')].replace("\\x", ""))


def joined(calls):
    """Consecutive writes of one handle become one, when they are small and follow each other: a library's buffer decides about them."""
    out = []
    for call in calls:
        last = out[-1] if out else {}
        if (
            call.get("call") == last.get("call") == "write"
            and call["handle"] == last["handle"]
            and call["offset"] == last["offset"] + len(zlib.decompress(bytes.fromhex(last["data"]), -15))
            and len(out) > 1
            and out[-2].get("call") == "write"
            and out[-2]["handle"] == call["handle"]
        ):
            data = zlib.decompress(bytes.fromhex(last["data"]), -15) + zlib.decompress(bytes.fromhex(call["data"]), -15)
            last["data"] = packed(data)
        else:
            out.append(call)
    return out


def record(name):
    home = os.path.realpath(tempfile.mkdtemp(prefix="spotter-record-"))
    # Another file system for temporary files makes a rename into the directory impossible.
    aside = tempfile.mkdtemp(prefix="spotter-record-", dir="/dev/shm")
    root = os.path.join(home, "checkpoints")
    os.mkdir(root)
    # Lightning renames from there into the directory.
    temporary = os.path.join(root, ".staging") if name == "lightning" else aside
    environment = {**os.environ, "TMPDIR": temporary, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    os.makedirs(temporary, exist_ok=True)
    log = os.path.join(home, "strace")
    run = ["strace", "-f", "-xx", "-s", "100000000", "-e", f"trace={CALLS}", "-o", log]
    run += [sys.executable, os.path.abspath(__file__), "--run", name]
    done = subprocess.run(run, cwd=root, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        print(f"{name}: not recorded: {done.stderr.strip().splitlines()[-1:]}")
        return
    recording = Recording(root, [aside])
    with open(log, encoding="ascii", errors="replace") as lines:
        for line in lines:
            recording.line(line)
    calls = joined(recording.calls)
    out = os.path.join(os.path.dirname(os.path.abspath(__file__)), name + ".jsonl")
    with open(out, "w") as file:
        file.write(json.dumps({"writer": name, "versions": versions()}) + "\n")
        for call in calls:
            file.write(json.dumps(call) + "\n")
    print(f"{name}: {len(calls)} calls, {os.path.getsize(out)} bytes")
    shutil.rmtree(home)
    shutil.rmtree(aside)


def versions():
    from importlib import metadata

    known = ["torch", "transformers", "accelerate", "pytorch-lightning", "safetensors", "numpy", "orbax-checkpoint", "jax"]
    found = {}
    for name in known:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            pass
    return found


def main():
    if sys.argv[1:2] == ["--run"]:
        WRITERS[sys.argv[2]]()
        return
    for name in sys.argv[1:] or WRITERS:
        record(name)


if __name__ == "__main__":
    main()
