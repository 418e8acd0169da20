"""The loss curve of a training, which the loop writes as {name}_loss.png beside the log."""


class WithLossCurves:
    """Beside a Task, in front of it among the bases: its losses are drawn, a panel each.

    curves: the columns that are drawn, in order; None for all of `Task.columns`. loss_labels: column -> what it holds,
    for those that are no squared error.
    """

    curves: tuple[str, ...] | None = None
    loss_labels: dict[str, str] = {}

    def loss_figure(self, logs: dict[str, list[dict]]):
        """As in `Task`."""
        from evaluation import figures              # brings matplotlib, and trainings start without it
        return figures.loss_curves(logs, {column: column for column in self.curves or self.columns}, self.loss_labels)
