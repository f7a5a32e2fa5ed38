"""Finds the checkpoint that `--from-checkpoint` names."""

from __future__ import annotations

from pathlib import Path

from tfserving.export.errors import CheckpointError
from tfserving.foundation.command.suggest import did_you_mean
from tfserving.foundation.golden import SAVED_MODEL

INDEX = ".index"
DATA = ".data-00000-of-"
# What `tf.train.CheckpointManager` writes: a text proto whose first line names the latest checkpoint.
STATE = "checkpoint"
KERAS = (".keras", ".h5", ".hdf5")


def find_checkpoint(path: Path, name: str | None = None) -> Path:
    """Return the prefix of a checkpoint: `path` itself, or the checkpoint `name`, or the latest, in the folder `path`.

    `path` may also be a file of the checkpoint, such as `ckpt-1.index`. Raises CheckpointError when there is none.
    """
    if path.is_dir():
        return _in_folder(path, name)
    if path.name == STATE and path.is_file():
        return _in_folder(path.parent, name)
    prefix = path
    if path.name.endswith(INDEX):
        prefix = path.with_name(path.name.removesuffix(INDEX))
    elif DATA in path.name:
        prefix = path.with_name(path.name.partition(DATA)[0])
    if _index(prefix).is_file():
        if name is not None and name != prefix.name:
            raise CheckpointError(f"{prefix} names a checkpoint, so leave out --checkpoint {name}")
        return prefix
    if path.suffix in KERAS:
        raise CheckpointError(_of_keras(path))
    if path.parent.is_dir():
        raise CheckpointError(
            f"{path} is not a checkpoint. {_listed(path.parent)}{did_you_mean(path.name, _names(path.parent))}"
        )
    raise CheckpointError(f"{path} is not a checkpoint: the folder {path.parent} does not exist")


def _in_folder(folder: Path, name: str | None) -> Path:
    names = _names(folder)
    if not names and (folder / SAVED_MODEL).is_file():
        raise CheckpointError(
            f"{folder} is a SavedModel, not a folder of checkpoints. Call load_existing in the builder, or write "
            "`saved_model:` in models.yaml."
        )
    if name is not None and name in names:
        return folder / name
    if name is not None:
        raise CheckpointError(f"{folder} has no checkpoint {name!r}. {_listed(folder)}{did_you_mean(name, names)}")
    if not names and (files := sorted(path.name for path in folder.iterdir() if path.suffix in KERAS)):
        raise CheckpointError(f"{folder} has no checkpoint. {_of_keras(folder / files[-1])}")
    state = folder / STATE
    latest = ""
    if state.is_file():
        line = next((line for line in state.read_text().splitlines() if line.startswith("model_checkpoint_path:")), "")
        latest = Path(line.partition(":")[2].strip().strip('"')).name
    if not names:
        raise CheckpointError(f"{folder} has no checkpoint: it has no file *{INDEX}")
    if latest not in names:
        why = f"names {latest!r}, which doesn't exist" if latest else "is missing or names no checkpoint"
        raise CheckpointError(f"{folder}: the file 'checkpoint' {why}. {_listed(folder)} Choose one with --checkpoint.")
    return folder / latest


def _of_keras(path: Path) -> str:
    loads = "model.load_weights" if path.name.endswith(".weights.h5") else "load_keras"
    return f"{path} is a file of Keras. Load it in the builder with {loads}({path.name!r})."


def _names(folder: Path) -> list[str]:
    return sorted(path.name.removesuffix(INDEX) for path in folder.glob(f"*{INDEX}"))


def _listed(folder: Path) -> str:
    names, folder = _names(folder), folder.absolute()
    return f"{folder} has {', '.join(names)}." if names else f"{folder} has no checkpoint (no file *{INDEX})."


def _index(prefix: Path) -> Path:
    return prefix.with_name(f"{prefix.name}{INDEX}")
