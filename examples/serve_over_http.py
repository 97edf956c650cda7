"""An agent behind HTTP: JSON in, JSON out, by the standard library alone, for programs on the same machine.

    python examples/serve_over_http.py [--agent FILE] [--port 8000] [--requests 3]
    curl -d '{"observation": [0.0, 0.1, 0.02, -0.1]}' http://127.0.0.1:8000/act

Without a file it first trains a small agent for a few seconds. With --requests N it asks itself so many times and ends;
without, it serves until Ctrl-C. Needs no extra. It takes about 6 seconds.

It answers on 127.0.0.1 only: for other machines, put a server with TLS and logins before it. The agent keeps
no memory between requests; one with memory would need a session for each client.
"""

import argparse
import json
import math
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

import agentlib

LARGEST = 1 << 20
"""Bytes of a request."""


class Refused(Exception):
    """A request that gets no action: a status of HTTP, and a sentence."""


def observation_of(body: bytes, space: spaces.Box | spaces.Discrete) -> Any:
    """The observation in a request, as numbers of the space.

    Raises:
        Refused: it is no JSON, or its observation is not of the space.
    """
    try:
        array = np.asarray(json.loads(body)["observation"])
    except (ValueError, TypeError, KeyError, RecursionError):
        array = np.empty(0, object)
    if array.dtype.kind not in "iuf":
        raise Refused(400, 'send {"observation": NUMBERS}, as JSON')
    if array.shape != space.shape:
        raise Refused(400, f"an observation has the shape {list(space.shape)}, not {list(array.shape)}")
    if not np.isfinite(array).all():
        raise Refused(400, "an observation has finite numbers")
    with np.errstate(all="ignore"):
        observation = array.astype(space.dtype)
    is_whole = space.dtype.kind == "f" or bool((observation == array).all())
    if not is_whole or not space.contains(observation if isinstance(space, spaces.Box) else observation[()]):
        raise Refused(400, f"the observation is not in {space}")
    return observation


def server_for(agent: agentlib.Agent, port: int) -> ThreadingHTTPServer:
    """A server of one agent on this machine's own address; port 0 takes a free one."""
    space = agent.observation_space
    if not isinstance(space, spaces.Box | spaces.Discrete):
        raise SystemExit(f"this example serves Box and Discrete observations, not {space}")

    class Handler(BaseHTTPRequestHandler):
        timeout = 10  # seconds that a client may be silent

        def do_POST(self) -> None:
            try:
                action = agent.predict(observation_of(self.body(), space), deterministic=True)[0]
                self.answer(200, {"action": np.asarray(action).tolist()})
            except Refused as refused:
                self.answer(*refused.args)

        def body(self) -> bytes:
            length = self.headers.get("Content-Length", "")
            if self.path != "/act":
                raise Refused(404, "ask by POST /act")
            if not (length.isascii() and length.isdecimal()):
                raise Refused(411, "say the length of the request: Content-Length")
            if len(length) > 7 or int(length) > LARGEST:
                raise Refused(413, f"a request has at most {LARGEST} bytes")
            return self.rfile.read(int(length))

        def answer(self, status: int, content: Any) -> None:
            if isinstance(content, str):
                content = {"error": content}
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            """Nothing is printed for each request."""

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


def asked(port: int, observation: Any) -> Any:
    """The action that a server on this machine gives: what a client does."""
    data = json.dumps({"observation": np.asarray(observation).tolist()}).encode()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/act", data, timeout=10) as response:
        return json.load(response)["action"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agent", type=Path, default=None, help="an agent file; by default one is trained")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one")
    parser.add_argument("--requests", type=int, default=None, help="ask so many times, and end")
    parser.add_argument("--steps", type=int, default=15_000, help="training steps where no file is given")
    arguments = parser.parse_args()

    if arguments.agent is not None:
        agent = agentlib.Agent.load(arguments.agent)
    else:
        agent = agentlib.train("dqn", env="CartPole-v1", steps=arguments.steps, net_arch=(64, 64), threads="auto")
    with server_for(agent, 0 if arguments.requests else arguments.port) as server:
        port = server.server_address[1]
        print(f"serving on http://127.0.0.1:{port}/act", flush=True)
        if arguments.requests is None:
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                return
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for _ in range(arguments.requests):
            observation = np.round(np.clip(agent.observation_space.sample(), -math.pi, math.pi), 3)
            print(f"{observation.tolist()} -> {asked(port, observation)}")
        server.shutdown()


if __name__ == "__main__":
    main()
