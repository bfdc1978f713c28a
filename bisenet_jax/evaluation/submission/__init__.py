"""Predictions as a benchmark's server wants them: written, and checked before they are sent."""

from bisenet_jax.evaluation.submission.writer import Submission as Submission
from bisenet_jax.evaluation.submission.writer import open_submission as open_submission
