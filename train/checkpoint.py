"""Saved states of one run; the only module that knows orbax.

Orbax commits a step by a rename, so a killed save leaves the step before it. Nothing
random lives outside the saved tree: what continues from it is bit-equal.
"""

import logging
import warnings
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from zoo.base import UsageError

# orbax reports each save at INFO and warns of settings that are its own
logging.getLogger("absl").setLevel(logging.ERROR)


class Checkpoints:
    """The newest two saved states in a directory of their own.

    Saves run in the background. One that fails (a full disk) is a warning and the next
    is tried afresh; only `close` raises.
    """

    def __init__(self, directory: Path | str):
        self._directory = Path(directory).resolve()
        self._open()

    def _open(self):
        training = ocp.training
        self._saver = training.Checkpointer(
            self._directory,
            # orbax deletes what it takes for old steps: never a folder named "3"
            step_name_format=ocp.path.step.standard_name_format(
                step_prefix="step", step_format_fixed_length=9
            ),
            preservation_policy=training.preservation_policies.LatestN(2),
            cleanup_tmp_directories=True,
        )

    def latest(self) -> int | None:
        """The step saved last, None before the first."""
        return None if self._saver.latest is None else self._saver.latest.step

    def restore(self, like: Any) -> Any:
        """The newest saved tree, in the structure and shapes of `like`.

        Raises UsageError where it does not fit: another model, optimizer or option.
        """
        abstract = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), like
        )
        try:
            return self._saver.load(None, abstract)
        except Exception as error:  # orbax raises many kinds, for one cause
            raise UsageError(
                f"the checkpoint in {self._directory} does not fit this model and "
                f"optimizer, or is damaged: {str(error).splitlines()[0][:200]}"
            ) from error

    def save(self, step: int, tree: Any) -> None:
        """Start saving; a step that is saved already stays as it is."""
        if self.latest() == step:
            return
        try:
            self._saver.wait()
            self._saver.save_async(step, tree, force=True)
        except Exception as error:
            warnings.warn(f"step {step} was not saved: {error}", stacklevel=2)
            self._reopen()

    def close(self, step: int | None = None, tree: Any = None) -> None:
        """Wait for saves under way, and save a last tree. Raises what that raises."""
        try:
            self._saver.wait()
        except Exception as error:
            warnings.warn(f"a state was not saved: {error}", stacklevel=2)
            self._reopen()
        if step is not None and self.latest() != step:
            self._saver.save(step, tree, force=True)
        self._saver.close()

    def _reopen(self):
        """A failed orbax saver raises its error again on every call."""
        try:
            self._saver.close()
        except Exception:
            pass  # the same error, already reported
        self._open()
