"""Channels that are shut: counted by their running variances, told where they are many."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from bisenet_jax.training.shut_channels import complaint, count_shut_channels


def test_a_bias_that_shuts_a_channel_is_seen_after_a_while():
    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.BatchNorm(use_running_average=False, momentum=0.9)(x))
            return nn.BatchNorm(use_running_average=False, momentum=0.9)(x)

    network = Network()
    x = jnp.asarray(np.random.default_rng(0).normal(size=(64, 5)), jnp.float32)
    variables = network.init(jax.random.key(0), x)
    # Two of five let nothing through.
    shut = jnp.asarray([0.0, -50.0, 0.0, -50.0, 0.0])
    variables["params"]["BatchNorm_0"]["bias"] = shut
    counts = []
    for _ in range(250):
        _, changed = network.apply(variables, x, mutable=["batch_stats"])
        variables = variables | changed
        counts.append(count_shut_channels(variables["batch_stats"]))
    assert counts[0] == (0, 10) and counts[-1] == (2, 10)
    assert counts[150] == (0, 10)


@pytest.mark.parametrize(
    "shut, is_told", [(0, False), (45, False), (46, True), (300, True), (4592, True)]
)
def test_a_few_are_no_news(shut, is_told):
    words = complaint(shut, 4592)
    assert (words is not None) == is_told
    if words:
        assert words.startswith(f"{shut:,} of 4,592 channels") and "learning_rate" in words
