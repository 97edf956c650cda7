"""The example that serves an agent over HTTP: the agent's actions, and one clear error for what is no observation."""

import http.client
import importlib.util
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tiny import tiny_run

EXAMPLE = Path(__file__).parent.parent / "examples" / "serve_over_http.py"
spec: Any = importlib.util.spec_from_file_location("serve_over_http", EXAMPLE)
example = importlib.util.module_from_spec(spec)
spec.loader.exec_module(example)


@pytest.fixture(scope="module", params=["CartPole-v1", "FrozenLake-v1"])
def served(request):
    agent = tiny_run(env=request.param, steps=40)
    with example.server_for(agent, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield agent, server.server_address
        server.shutdown()
        thread.join()


def answered(port, body, path="/act", headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("POST", path, body, headers or {})
    response = connection.getresponse()
    found = response.status, json.loads(response.read())
    connection.close()
    return found


def test_the_actions_are_the_agents(served):
    agent, (host, port) = served
    assert host == "127.0.0.1"
    agent.observation_space.seed(0)
    for _ in range(20):
        observation = np.clip(agent.observation_space.sample(), -9, 9)
        assert example.asked(port, observation) == agent.predict(observation, deterministic=True)[0]


def test_bad_input_is_one_clear_error(served):
    agent, (_, port) = served
    right, send = agent.observation_space.sample().tolist(), 'send {"observation": NUMBERS}, as JSON'
    for body in (b"", b"\xff", b"[1]", b'{"observation": "' + b"a" * 9, b'{"observation": {"a": 1}}', b"[" * 100_000):
        assert answered(port, body) == (400, {"error": send})
    for wrong in ("one", None, True, [[1], 2], 10**30):
        assert answered(port, json.dumps({"observation": wrong})) == (400, {"error": send})
    status, found = answered(port, json.dumps({"observation": [1, 2, 3]}))
    assert status == 400
    assert "an observation has the shape" in found["error"]
    status, found = answered(port, json.dumps({"observation": (np.zeros_like(right) + np.nan).tolist()}))
    assert (status, found) == (400, {"error": "an observation has finite numbers"})
    status, found = answered(port, json.dumps({"observation": (np.zeros_like(right) + 1e300).tolist()}))
    assert status == 400
    assert "the observation is not in" in found["error"]
    assert answered(port, b"{}", path="/")[0] == 404
    assert answered(port, b"", headers={"Content-Length": "-1"})[0] == 411
    assert answered(port, b"", headers={"Content-Length": str(1 << 21)})[0] == 413
    assert answered(port, json.dumps({"observation": right}))[0] == 200  # it still serves
