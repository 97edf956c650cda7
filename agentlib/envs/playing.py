"""A person at the keyboard: what keys do, a terminal or a window to press them in, and the expert that this makes.

Keys are those of `gymnasium.utils.play`: an environment may have `get_keys_to_action()`, from keys, pressed together,
to an action. On a terminal the environment waits for the person: a line with the keys, Enter alone for the same as
before. In a window it does not: it runs at its own pace with the keys that are held down.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from agentlib.envs.making import make_env

USUAL_RATE = 15
"""Steps a second in a window, where the environment does not say."""
MAP = "get_keys_to_action"
"""The method by which an environment says what keys do."""
COLUMNS, ROWS = 72, 24
"""Of a picture on a terminal."""
ARROWS = dict(zip((273, 274, 275, 276), "\u2191\u2193\u2192\u2190", strict=True))
ARROWS |= dict(zip((0x40000052, 0x40000051, 0x4000004F, 0x40000050), "\u2191\u2193\u2192\u2190", strict=True))
"""The arrow keys' numbers in pygame 1, which maps of Gymnasium's environments still use, and in pygame 2."""
ESCAPES = dict(zip(("\x1b[A", "\x1b[B", "\x1b[C", "\x1b[D"), "\u2191\u2193\u2192\u2190", strict=True))
"""The characters that a terminal sends for them."""


class ExpertLeft(Exception):
    """The expert will answer no more: a person who went away. What was said before is kept."""


class Screen(Protocol):
    """Where a person sees the environment and presses keys."""

    @property
    def waits(self) -> bool:
        """Whether the environment stands still until an answer comes."""

    def ask(self, env: gymnasium.Env[Any, Any], observation: Any, question: str) -> str:
        """The keys that are pressed, sorted; empty for none. Raises `ExpertLeft`."""


class Person:
    """An expert who sits at the keyboard. It is asked about one environment at a time.

    Args:
        keys: from keys (pressed together: in any order) to actions, as the environment takes them; by default what
            `keys_for` finds.
        screen: a `Terminal` or a `Window`; a terminal by default.
    """

    looks_on = True

    def __init__(self, keys: Mapping[Any, Any] | None = None, screen: Screen | None = None) -> None:
        self.given, self.screen = keys, screen if screen is not None else Terminal()
        self.keys: dict[str, Any] = {}
        self.last: Any = None
        self._taken: Any = None

    def __call__(self, env: gymnasium.Env[Any, Any], observation: Any) -> Any:
        """The person's action.

        Raises:
            ExpertLeft: the person closed the terminal or the window, or typed q.
        """
        if self._taken is not None:
            action, self._taken = self._taken, None
            return action
        return self._pressed(env, observation, "your action", self._idle)

    def takes_over(self, env: gymnasium.Env[Any, Any], observation: Any, action: Any) -> bool:
        """Whether the person acts in place of the learner, who would do `action`: it does if it presses a key."""
        self._taken = self._pressed(env, observation, f"the learner would do {action}; Enter lets it", lambda: None)
        return self._taken is not None

    def _pressed(self, env: Any, observation: Any, question: str, otherwise: Callable[[], Any]) -> Any:
        self.keys = self.keys or keys_for(env, self.given)
        legend = ", ".join(f"{_shown(key)}: {action}" for key, action in self.keys.items() if key)
        note = ""
        while True:
            pressed = self.screen.ask(env, observation, f"{note}{question} [{legend}; q: stop] ")
            if pressed in self.keys and pressed:
                self.last = self.keys[pressed]
                return self.last
            if not pressed or not self.screen.waits:  # what a window does not know is no key
                return otherwise()
            if pressed == "q":
                raise ExpertLeft
            note = f"{pressed!r} does nothing here; "

    def _idle(self) -> Any:
        """With no key pressed: what the environment's own map says, else the same as before."""
        if "" in self.keys:
            return self.keys[""]
        return self.last if self.last is not None else next(iter(self.keys.values()))


def keys_for(env: gymnasium.Env[Any, Any], keys: Mapping[Any, Any] | None = None) -> dict[str, Any]:
    """The action of each key: as given; else as the environment says, and digits for up to ten discrete actions.

    Raises:
        ValueError: there is no such map, or an action in it is not in the space.
    """
    space, found = env.action_space, {}
    if keys is None:
        if isinstance(space, spaces.Discrete) and space.n <= 10:
            found = {str(number): int(space.start) + number for number in range(int(space.n))}
        keys = dict(env.get_wrapper_attr(MAP)()) if env.has_wrapper_attr(MAP) else {}
    found |= {_combination(key): action for key, action in keys.items()}
    if not found:
        raise ValueError(f'no keys are known for {space}: give them, such as keys={{"a": 0, "d": 1}}')
    for key, action in found.items():
        if not space.contains(np.asarray(action, space.dtype) if isinstance(space, spaces.Box) else action):
            raise ValueError(f"key {key!r} does {action!r}, which is not in {space}")
    return found


def render_mode_for(env_id: str, env_kwargs: Mapping[str, Any]) -> str | None:
    """How an environment can be shown to a person: as text, as pictures, or, None, only by its numbers."""
    made = make_env(env_id, env_kwargs=dict(env_kwargs))
    modes = made.metadata.get("render_modes", ())
    made.close()
    return next((mode for mode in ("ansi", "rgb_array") if mode in modes), None)


def _combination(key: Any) -> str:
    """A key or several, as characters or their numbers, as one sorted string."""
    parts: Iterable[Any] = key if isinstance(key, str | tuple | list) else () if key is None else (key,)
    return "".join(sorted(_character(part) if isinstance(part, int) else str(part) for part in parts))


def _character(number: int) -> str:
    """The character of a key's number; arrows are arrows, and of what has no character, nothing comes."""
    return ARROWS.get(number) or (chr(number) if number < 0x110000 else "")


def _shown(key: str) -> str:
    return key if key.isprintable() and not key.isspace() else repr(key)


class Terminal:
    """Asks line by line, in turns.

    Args:
        read: gives the next line, and an empty string at the end; standard input by default.
        write: takes text; standard output by default.
    """

    waits = True

    def __init__(self, read: Callable[[], str] | None = None, write: Callable[[str], Any] | None = None) -> None:
        self.read: Callable[[], str] = read if read is not None else lambda: sys.stdin.readline()
        self.write = write if write is not None else _write

    def ask(self, env: gymnasium.Env[Any, Any], observation: Any, question: str) -> str:
        """Shows the environment, and reads a line of keys."""
        self.write(f"\n{seen(env, observation)}\n{question}")
        line = self.read()
        if not line:
            self.write("\n")
            raise ExpertLeft
        for escape, arrow in ESCAPES.items():
            line = line.replace(escape, arrow)
        return "".join(sorted(line.strip("\r\n")))


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def seen(env: gymnasium.Env[Any, Any], observation: Any) -> str:
    """The environment on a terminal: its text, its picture in coloured blocks, or the observation in numbers."""
    frame = env.render() if env.render_mode in ("ansi", "rgb_array") else None
    if isinstance(frame, str):
        return frame
    if isinstance(frame, np.ndarray) and frame.ndim == 3:
        return blocks(frame)
    return np.array2string(np.asarray(observation), precision=3, suppress_small=True, threshold=200)


def blocks(frame: NDArray[np.uint8]) -> str:
    """A picture `(H, W, 3)` in half blocks of two colours each."""
    height, width = frame.shape[:2]
    scale = max(width / COLUMNS, height / (2 * ROWS), 1.0)
    rows = (np.arange(int(height / scale) // 2 * 2) * scale).astype(int)
    columns = (np.arange(int(width / scale)) * scale).astype(int)
    small = frame[rows][:, columns]  # (2 n, m, 3)
    lines = []
    for upper, lower in zip(small[::2], small[1::2], strict=True):
        cells = [
            f"\x1b[38;2;{r};{g};{b}m\x1b[48;2;{x};{y};{z}m\u2580"
            for (r, g, b), (x, y, z) in zip(upper, lower, strict=True)
        ]
        lines.append("".join(cells) + "\x1b[0m")
    return "\n".join(lines)


class Window:
    """A window that shows the environment's pictures, at the environment's pace; keys count while they are held down.

    Args:
        rate: steps a second; by default the environment's `render_fps`.
        zoom: size of a pixel.
    """

    waits = False

    def __init__(self, rate: float | None = None, zoom: int = 1) -> None:
        try:
            import pygame
        except ImportError:
            hint = "pip install 'agentlib-rl[video]', or play in the terminal"
            raise ImportError(f"a window needs pygame: {hint}") from None
        self.pygame: Any = pygame
        self.rate, self.zoom = rate, zoom
        self.screen: Any = None
        self.clock: Any = None
        self.held: set[int] = set()
        """Keys that are down, by pygame's numbers."""

    def ask(self, env: gymnasium.Env[Any, Any], observation: Any, question: str) -> str:
        """Shows a picture, waits until it is time for the next, and says which keys are held down."""
        pygame = self.pygame
        frame = env.render() if env.render_mode == "rgb_array" else None
        if not isinstance(frame, np.ndarray):
            raise ValueError('a window needs pictures: make the environment with render_mode="rgb_array"')
        size = (frame.shape[1] * self.zoom, frame.shape[0] * self.zoom)
        if self.screen is None:
            pygame.display.init()
            self.screen, self.clock = pygame.display.set_mode(size), pygame.time.Clock()
        picture = pygame.surfarray.make_surface(frame.swapaxes(0, 1))
        self.screen.blit(pygame.transform.scale(picture, size), (0, 0))
        pygame.display.set_caption(question)
        pygame.display.flip()
        self.clock.tick(self.rate or float(env.metadata.get("render_fps") or USUAL_RATE))
        for event in pygame.event.get():
            if event.type == pygame.QUIT or (event.type == pygame.KEYDOWN and event.key == pygame.K_ESCAPE):
                self.close()
                raise ExpertLeft
            if event.type == pygame.KEYDOWN:
                self.held.add(event.key)
            if event.type == pygame.KEYUP:
                self.held.discard(event.key)
        return "".join(sorted(filter(None, map(_character, self.held))))

    def close(self) -> None:
        """Closes the window."""
        if self.screen is not None:
            self.pygame.display.quit()
            self.screen = None
