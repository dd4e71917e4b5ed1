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

    Saves run in the background. One that fails (a full disk) is a warning, the next is
    tried afresh, and only the last one raises.
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

    def save(self, step: int, tree: Any, *, last: bool = False) -> None:
        """Start saving, or with `last` save now; a step that is saved stays as it is.

        Raises UsageError where the last save fails.
        """
        try:
            self._saver.wait()
        except Exception as error:
            self._failed("a state was not saved", error)
        if self.latest() == step:
            return
        try:
            if last:
                self._saver.save(step, tree, force=True)
            else:
                self._saver.save_async(step, tree, force=True)
        except Exception as error:
            if last:
                raise UsageError(f"step {step} was not saved: {error}") from error
            self._failed(f"step {step} was not saved", error)

    def close(self) -> None:
        """Wait for a save under way."""
        try:
            self._saver.close()
        except Exception as error:
            warnings.warn(f"a state was not saved: {error}", stacklevel=2)

    def _failed(self, what, error):
        """Warn, and begin anew: orbax raises a failed save's error again and again."""
        warnings.warn(f"{what}: {error}", stacklevel=3)
        try:
            self._saver.close()
        except Exception:
            pass  # the same error
        self._open()
