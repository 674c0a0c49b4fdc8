"""Errors that a person can act on."""


class PipelineError(Exception):
    """A mistake in the input or the environment, told in one line.

    Commands print it as ``error: <message>`` and leave with a non-zero exit code;
    anything else that is raised is a defect of ours and keeps its traceback.
    """


class NotFinite(PipelineError, ValueError):
    """A model gave NaN or infinity, so that there is nothing to judge."""
