"""The training loop: one process, or one rank of a torch.distributed group; the same curve to rounding either way.

All randomness is a function of seed, phase, step and rank, so that on the same kind of machine a resumed run gives the
same result as an uninterrupted one. Every rank takes every step: an empty share joins the all-reduce.
"""

import contextlib
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from llambert.errors import InputError
from llambert.recipe import ClassifierRecipe
from llambert.training.batches import micro_batches, plan_epoch, worker_share
from llambert.training.encoder import Encoder
from llambert.training.held_out_metrics import held_out_metrics
from llambert.training.losses import record_losses
from llambert.training.optimization import create_average, create_optimizer, linear_schedule, use_bfloat16
from llambert.training.training_set import TrainingSet

READ_LOSSES_EVERY_STEPS = 10
"""Interval at which losses are read from the device, summed over the ranks and checked: waiting for each step would
leave a GPU idle."""
_EVALUATION_BATCH = 64
SOUP_PHASE = "mean of the members"
"""Phase name of the figures of a model soup."""


@dataclass(frozen=True)
class Phase:
    """One pass of fine-tuning: a training set, what is held out of it, and for how long."""

    name: str
    train: TrainingSet
    held_out: TrainingSet
    epochs: int
    learning_rate: float

    def steps_per_epoch(self, batch_size: int) -> int:
        """Optimizer steps of one epoch."""
        return math.ceil(len(self.train) / batch_size)


@dataclass(frozen=True)
class Step:
    """One optimizer step; ``loss`` is the mean over the global batch, ``step`` counts from 1 in its phase."""

    phase: str
    step: int
    loss: float
    learning_rate: float
    grad_norm: float


@dataclass
class History:
    """The loss curve and the held-out figures after each epoch, of all phases so far."""

    steps: list[Step] = field(default_factory=list)
    epochs: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint or JSON."""
        return {"steps": [dict(vars(step)) for step in self.steps], "epochs": self.epochs}

    def result_epoch(self) -> dict[str, Any]:
        """The figures of the epoch whose weights are the result: the best where training may stop early."""
        return next(figures for figures in reversed(self.epochs) if figures.get("is_result", True))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "History":
        """What ``to_dict`` wrote."""
        return cls([Step(**step) for step in values["steps"]], list(values["epochs"]))


class Observer:
    """Callbacks of the training loop; every rank makes the same calls at the same steps."""

    def on_steps(self, steps: list[Step]) -> None:
        """Called with the steps since the last call, checked and summed over the ranks."""

    def on_epoch(self, figures: dict[str, Any]) -> None:
        """Called with the held-out figures after an epoch, with ``phase`` and ``epoch``."""

    def on_checkpoint(self, state: Callable[[], dict[str, Any]]) -> None:
        """Called where training can be resumed: after each look at the losses, and after each phase.

        ``FineTuning.restore`` resumes from what ``state()`` returns, whose tensors training changes afterwards.
        """


@dataclass
class _Tokenized:
    token_ids: list[np.ndarray]
    lengths: np.ndarray
    groups: np.ndarray


class FineTuning:
    """An encoder being fine-tuned through one or more phases.

    After ``run`` the encoder's model holds the result (averaged or best weights where the recipe asks) and ``history``
    the curve.
    """

    def __init__(
        self,
        encoder: Encoder,
        phases: list[Phase],
        recipe: ClassifierRecipe,
        categories: list[str],
        device: torch.device | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.encoder, self.recipe, self.categories = encoder, recipe, categories
        self.phases = _phases_of_members(phases, recipe.soup_members)
        self.device = device or torch.device("cpu")
        self.observer = observer or Observer()
        self.history = History()
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.num_workers = dist.get_world_size() if dist.is_initialized() else 1
        self._autocast = use_bfloat16(recipe.dtype, self.device)
        self._model = encoder.model.to(self.device)  # type: ignore[arg-type]
        self._forward: nn.Module = self._model
        if recipe.compile:
            self._forward = torch.compile(self._model, dynamic=True)  # type: ignore[assignment]
        if self.num_workers > 1:
            # Buffers of encoders are constants; workers may run a step in different numbers of pieces.
            self._forward = nn.parallel.DistributedDataParallel(self._forward, broadcast_buffers=False)
        self._phase = 0
        self._state: dict[str, Any] | None = None
        self._tokenized: dict[TrainingSet, _Tokenized] = {}
        self._phases_per_member = len(phases)
        self._initial_weights = _cpu_state_dict(self._model) if recipe.soup_members > 1 else {}
        self._mean_weights: dict[str, torch.Tensor] = {}  # of the soup's members so far

    @property
    def num_steps(self) -> int:
        """Optimizer steps of all phases."""
        return sum(phase.epochs * phase.steps_per_epoch(self.recipe.batch_size) for phase in self.phases)

    @property
    def num_steps_done(self) -> int:
        """Steps taken, including those before a restart."""
        return len(self.history.steps)

    def restore(self, state: dict[str, Any]) -> None:
        """Resume from the state that ``Observer.on_checkpoint`` was given."""
        self._model.load_state_dict(state["model"])
        self._mean_weights = dict(state["members"])
        self.history = History.from_dict(state["history"])
        self._phase = state["phase"]
        self._state = state if "optimizer" in state else None  # None: at the start of a phase

    def run(self) -> History:
        """Train the remaining phases; ``InputError`` if loss or weights are no longer finite."""
        while self._phase < len(self.phases):
            if self._state is None and self._initial_weights and self._phase % self._phases_per_member == 0:
                self._model.load_state_dict(self._initial_weights)
            _PhaseRun(self, self.phases[self._phase], self._phase, self._state).run()
            self._phase, self._state = self._phase + 1, None
            if self._initial_weights and self._phase % self._phases_per_member == 0:
                self._add_member()
            self.observer.on_checkpoint(lambda: {"phase": self._phase, **self.state_dict()})
        if self._initial_weights:
            self._model.load_state_dict(self._mean_weights)
            training_loss = self.history.result_epoch()["training_loss"]
            figures = {"phase": SOUP_PHASE, "epoch": 1, "step": self.num_steps_done, "training_loss": training_loss}
            self.evaluate(figures, self.phases[-1].held_out, self._model)
        return self.history

    def evaluate(self, figures: dict[str, Any], held_out: TrainingSet, model: nn.Module) -> None:
        """Add the figures of ``model`` on the held-out records to ``figures``, the history and the observer."""
        if len(held_out):
            probabilities = self.predict(model, self.tokenized(held_out))
            figures |= held_out_metrics(probabilities, held_out.labels, held_out.targets, self.categories)
        self.history.epochs.append(figures)
        self.observer.on_epoch(figures)

    def state_dict(self) -> dict[str, Any]:
        """The state of a checkpoint that does not depend on the phase."""
        return {"model": self._model.state_dict(), "members": self._mean_weights, "history": self.history.to_dict()}

    def _add_member(self) -> None:
        """Add the weights of a trained member to the mean."""
        num = self._phase // self._phases_per_member
        for name, tensor in _cpu_state_dict(self._model).items():
            mean = self._mean_weights.get(name, tensor)
            self._mean_weights[name] = mean + (tensor - mean) / num if tensor.is_floating_point() else tensor

    def predict(self, model: nn.Module, tokenized: _Tokenized) -> np.ndarray:
        """Probabilities of shape (records, categories), every rank computing its share of the batches."""
        order = np.argsort(-tokenized.lengths, kind="stable")
        batches = micro_batches(order, _EVALUATION_BATCH, tokenized.groups)
        own: list[tuple[np.ndarray, np.ndarray]] = []
        model.eval()
        with torch.no_grad(), self.autocast():
            for rows in batches[self.rank :: self.num_workers]:
                inputs = self.collate(tokenized, rows)
                own.append((rows, model(**inputs).logits.float().softmax(dim=-1).cpu().numpy()))
        model.train()
        shares = [own] * self.num_workers
        if self.num_workers > 1:
            dist.all_gather_object(shares, own)
        probabilities = np.zeros((len(order), len(self.categories)), dtype=np.float32)
        for rows, values in itertools.chain.from_iterable(shares):
            probabilities[rows] = values
        return probabilities

    def collate(self, tokenized: _Tokenized, rows: np.ndarray) -> dict[str, torch.Tensor | None]:
        """The padded batch of these records, which are of one group, on the device."""
        inputs = self.encoder.input_format.model_inputs([tokenized.token_ids[row] for row in rows])
        return {name: value if value is None else self._on_device(value) for name, value in inputs.items()}

    def _on_device(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor

    def autocast(self) -> contextlib.AbstractContextManager:
        """Matrix products in bfloat16 if the recipe or the device chooses it."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._autocast)

    def tokenized(self, records: TrainingSet) -> _Tokenized:
        """The records' token ids, computed once."""
        if records not in self._tokenized:
            ids = self.encoder.tokenize(records.texts)
            lengths = np.array([len(row) for row in ids], dtype=np.int64)
            self._tokenized[records] = _Tokenized(ids, lengths, self.encoder.input_format.batch_groups(ids))
        return self._tokenized[records]


class _PhaseRun:
    """The training of one phase: its optimizer, averaged weights and next step."""

    def __init__(self, tuning: FineTuning, phase: Phase, index: int, state: dict[str, Any] | None) -> None:
        self.tuning, self.phase, self.index, self.recipe = tuning, phase, index, tuning.recipe
        self.model: nn.Module = tuning.encoder.model
        self.train = tuning.tokenized(phase.train)
        self.targets = torch.from_numpy(phase.train.targets).to(tuning.device)
        self.weights = torch.from_numpy(phase.train.weights).to(tuning.device)
        self.steps_per_epoch = phase.steps_per_epoch(self.recipe.batch_size)
        self.num_steps = phase.epochs * self.steps_per_epoch
        self.optimizer = create_optimizer(self.model, phase.learning_rate, self.recipe.weight_decay)
        self.average = create_average(self.model, self.recipe)
        self.best: dict[str, Any] | None = None
        self.step = 0
        self._unread: list[tuple[int, float, torch.Tensor, torch.Tensor]] = []
        if state is not None:
            self.step, self.best = state["step"], state["best"]
            self.optimizer.load_state_dict(state["optimizer"])
            if self.average is not None:
                self.average.load_state_dict(state["average"])

    def run(self) -> None:
        """Take the remaining steps and load the resulting weights into the model."""
        self.model.train()
        while self.step < self.num_steps:
            epoch = self.step // self.steps_per_epoch
            seed = (self.recipe.seed, 3, self.index, epoch)
            plan = plan_epoch(self.train.lengths, self.recipe.batch_size, seed, self.recipe.bucketing)
            for batch in plan[self.step % self.steps_per_epoch :]:
                self._take_step(batch)
                epoch_ends = self.step % self.steps_per_epoch == 0
                if not epoch_ends and self.step % READ_LOSSES_EVERY_STEPS:
                    continue
                self._read_losses()
                if epoch_ends and self._end_epoch(epoch + 1):
                    self.step = self.num_steps
                if self.step < self.num_steps:
                    self._require_finite_weights()
                    self.tuning.observer.on_checkpoint(self._state_dict)
        self._require_finite_weights()
        if self.recipe.early_stop_patience is not None and self.best is not None:
            self.model.load_state_dict(self.best["model"])
            for figures in self.tuning.history.epochs:
                if figures["phase"] == self.phase.name:
                    figures["is_result"] = figures["epoch"] == self.best["epoch"]
        elif self.average is not None:
            self.model.load_state_dict(self.average.module.state_dict())

    def _take_step(self, batch: np.ndarray) -> None:
        """Forward, backward and update on one global batch."""
        tuning, recipe = self.tuning, self.recipe
        rate = self.phase.learning_rate * linear_schedule(self.step, self.num_steps, recipe.warmup_share)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        sequence = np.random.SeedSequence([recipe.seed, 4, self.index, self.step, tuning.rank])
        torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0]))
        share = worker_share(batch, tuning.rank, tuning.num_workers)
        pieces = micro_batches(share, recipe.micro_batch_size, self.train.groups)
        losses = torch.zeros((), device=tuning.device)
        # All ranks must run the same number of synchronised backward passes: one, the last.
        for number, rows in enumerate(pieces):
            skip_sync = tuning.num_workers > 1 and number < len(pieces) - 1
            with tuning._forward.no_sync() if skip_sync else contextlib.nullcontext():  # type: ignore[operator]
                loss = self._loss(rows, len(batch))
                # DistributedDataParallel averages gradients over the ranks; the loss is their sum.
                (loss * tuning.num_workers).backward()
            losses += loss.detach()
        trained = [parameter for parameter in self.model.parameters() if parameter.grad is not None]
        grad_norm = nn.utils.clip_grad_norm_(trained, recipe.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        if self.average is not None and (recipe.averaging == "ema" or self.step > self.num_steps // 2):
            self.average.update_parameters(self.model)
        self._unread.append((self.step, rate, losses, grad_norm.detach()))

    def _loss(self, rows: np.ndarray, num_in_batch: int) -> torch.Tensor:
        """This worker's part of the batch's mean loss; for an empty share one record's loss times zero."""
        empty = len(rows) == 0
        rows = np.zeros(1, dtype=np.int64) if empty else rows
        with self.tuning.autocast():
            logits = self.tuning._forward(**self.tuning.collate(self.train, rows)).logits
        index = torch.from_numpy(rows).to(self.tuning.device, non_blocking=True)
        losses = record_losses(logits, self.targets[index], self.recipe) * self.weights[index]
        return losses.sum() * (0.0 if empty else 1 / num_in_batch)

    def _read_losses(self) -> None:
        """Read the losses since the last call; ``InputError`` at the first that is not finite, on every rank."""
        if not self._unread:
            return
        taken, rates, losses_on_device, norms = zip(*self._unread, strict=True)
        losses = torch.stack(losses_on_device)
        if self.tuning.num_workers > 1:
            dist.all_reduce(losses)
        steps = []
        for step, rate, loss, norm in zip(taken, rates, losses.tolist(), torch.stack(norms).tolist(), strict=True):
            if not (np.isfinite(loss) and np.isfinite(norm)):
                raise self._not_finite("loss", step)
            steps.append(Step(self.phase.name, step, loss, rate, norm))
        self._unread = []
        self.tuning.history.steps += steps
        self.tuning.observer.on_steps(steps)

    def _require_finite_weights(self) -> None:
        """Check the weights before they are stored: a step's loss is that of the weights before the step.

        Every rank has the same weights, so all raise, whichever of them stores something.
        """
        if not torch.isfinite(nn.utils.get_total_norm(self.model.parameters())):
            raise self._not_finite("norm of the weights", self.step)

    def _not_finite(self, what: str, step: int) -> InputError:
        return InputError(
            f"the {what} is not finite at step {step} of {self.num_steps} (phase {self.phase.name}): training "
            "stopped, the last good checkpoint is kept; lower classifier.learning_rate"
        )

    def _end_epoch(self, epoch: int) -> bool:
        """Evaluate on the held-out records; True if training stops early after this epoch."""
        figures: dict[str, Any] = {"phase": self.phase.name, "epoch": epoch, "step": self.step}
        steps = self.tuning.history.steps[-self.steps_per_epoch :]
        figures["training_loss"] = float(np.mean([step.loss for step in steps]))
        evaluated = self.average.module if self.average is not None and self.average.n_averaged > 0 else self.model
        self.tuning.evaluate(figures, self.phase.held_out, evaluated)
        if self.recipe.early_stop_patience is None:
            return False
        if self.best is None or figures["loss"] < self.best["loss"]:
            self.best = {"loss": figures["loss"], "epoch": epoch, "model": _cpu_state_dict(evaluated)}
        return epoch - self.best["epoch"] >= self.recipe.early_stop_patience

    def _state_dict(self) -> dict[str, Any]:
        return {
            "phase": self.index,
            "step": self.step,
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "best": self.best,
            **self.tuning.state_dict(),
        }


def _phases_of_members(phases: list[Phase], num_members: int) -> list[Phase]:
    """The phases of each member of a soup in turn, with distinct names."""
    names = ["", *(f" {member}" for member in range(2, num_members + 1))]
    return [replace(phase, name=phase.name + name) for name in names for phase in phases]


def _cpu_state_dict(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
