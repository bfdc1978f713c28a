"""Who and what is in a synthetic street, and where: traffic, people, poles, trees."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from bisenet_jax.data.streets.figures import draw_cycle, draw_person, draw_pole, draw_thing
from bisenet_jax.data.streets.ground import Street
from bisenet_jax.data.streets.scenery import draw_tree
from bisenet_jax.data.streets.vehicles import BUS, CARS, LORRY, TRAM, Body, draw_vehicle

Draw = Callable[..., None]  # (canvas, camera, lateral, depth, rng)


class Item(NamedTuple):
    """One thing to draw, at its place in metres."""

    depth: float
    lateral: float
    draw: Draw


def traffic(street: Street, rng: np.random.Generator) -> Iterator[Item]:
    """Vehicles in the lanes, at the kerbs and sometimes across the road."""
    # Rare kinds are dealt first: left to chance, they would be too few to learn from.
    guests = [kind for kind in (TRAM, LORRY, BUS, None) if rng.random() < 0.4]
    lanes = [(-0.58, True), (0.58, False)]
    if street.half > 6:
        lanes = [(-0.78, True), (0.78, False), (-0.28, True), (0.28, False)]
    busy = 0.25 + 0.6 * rng.random()
    for share, is_oncoming in lanes:
        depth = 7 + 11 * rng.random()
        while depth < 70:
            # The outer 1.6 m are for those who park and for cyclists.
            lateral = (street.half - 1.6) * share + 0.3 * (rng.random() - 0.5)
            if guests and rng.random() < 0.7:
                body = guests.pop(int(rng.random() * len(guests)))
                draw = _vehicle(body, is_oncoming) if body else _motorcyclist(rng)
                length = body.length if body else 3.0
            elif rng.random() < busy:
                body = _car(rng)
                draw, length = _vehicle(body, is_oncoming), body.length
            else:
                depth += 9
                continue
            yield Item(depth, lateral, draw)
            depth += length + 3 + 22 * rng.random() ** 2
    for side in (-1, 1):
        if rng.random() < 0.5:
            yield from _parked_cars(street, side, rng)
    if rng.random() < 0.35:
        yield _crossing(street, rng)


def people(street: Street, rng: np.random.Generator) -> Iterator[Item]:
    """Walkers on the sidewalks and on the road, and cyclists at its edges."""
    for side in (-1, 1):
        room = abs(street.barrier(side)) - street.half
        for _ in range(int(7 * rng.random())):
            depth = 6 + 30 * rng.random() ** 1.5
            lateral = street.half + 0.4 + (room - 0.6) * rng.random()
            yield Item(depth, side * lateral, draw_person)
        if rng.random() < 0.45:
            cyclist = _cycle("bicycle", True, _turn(rng))
            yield Item(6 + 16 * rng.random(), side * (street.half - 0.5), cyclist)
    if rng.random() < 0.4:
        depth = 8 + 14 * rng.random()
        for _ in range(1 + int(3 * rng.random())):
            lateral = street.half * (2 * rng.random() - 1)
            yield Item(depth + rng.random(), lateral, draw_person)


def furniture(street: Street, rng: np.random.Generator) -> Iterator[Item]:
    """Poles, trees, bins and parked cycles between the kerb and the barrier."""
    kinds = ("lamp", "lights", "sign", "sign", "lights", "board")
    for side in (-1, 1):
        edge = street.half + 0.6
        room = abs(street.barrier(side)) - edge
        for _ in range(2 + int(3 * rng.random())):
            kind = kinds[int(rng.random() * len(kinds))]
            depth = (11 if kind == "board" else 7) + 30 * rng.random() ** 1.3
            lateral = side * (edge + 0.2 * rng.random())
            yield Item(depth, lateral, partial(draw_pole, kind=kind))
        if rng.random() < 0.5:  # an avenue
            step, size = 7 + 6 * rng.random(), 0.7 + 0.8 * rng.random()
            tree = partial(draw_tree, trunk=2.2 * size, radius=2.0 * size, tall=2.0 * size)
            for i in range(6):
                yield Item(8 + step * (i + rng.random() * 0.3), side * (edge + 0.4), tree)
        if rng.random() < 0.4:
            yield Item(6 + 20 * rng.random(), side * (edge + room * rng.random()), draw_thing)
        if rng.random() < 0.55:
            name = "motorcycle" if rng.random() < 0.4 else "bicycle"
            first = 6 + 10 * rng.random()
            for i in range(1 + int(3 * rng.random())):
                parked = _cycle(name, False, 0.5 + 0.5 * rng.random())
                lateral = side * (edge + room * 0.3 + 0.3 * i)
                yield Item(first + 0.9 * i, lateral, parked)


def gardens(street: Street, rng: np.random.Generator) -> Iterator[Item]:
    """Trees and bushes between the barriers and the houses."""
    for side in (-1, 1):
        for _ in range(int(7 * rng.random())):
            size = 0.6 + rng.random()
            tree = partial(draw_tree, trunk=2.1 * size, radius=1.9 * size, tall=2.2 * size)
            bush = partial(draw_tree, trunk=0.0, radius=1.3 * size, tall=0.9 * size)
            lateral = street.barrier(side) + side * (0.5 + 6 * rng.random())
            draw = tree if rng.random() < 0.6 else bush
            yield Item(7 + 60 * rng.random() ** 1.5, lateral, draw)


def woods(street: Street, rng: np.random.Generator) -> Iterator[Item]:
    """Tall trees behind the houses, seen through the gaps and over the roofs."""
    for side in (-1, 1):
        for _ in range(int(9 * rng.random())):
            size = 1.2 + 1.3 * rng.random()
            tree = partial(draw_tree, trunk=1.6 * size, radius=2.3 * size, tall=2.5 * size)
            lateral = street.front(side) + side * (2 + 8 * rng.random())
            yield Item(12 + 70 * rng.random(), lateral, tree)


def _vehicle(body: Body, is_oncoming: bool) -> Draw:
    return partial(draw_vehicle, body=body, is_oncoming=is_oncoming)


def _car(rng: np.random.Generator) -> Body:
    return CARS[int(len(CARS) * rng.random())]


def _cycle(class_name: str, has_rider: bool, stretch: float) -> Draw:
    return partial(draw_cycle, class_name=class_name, has_rider=has_rider, stretch=stretch)


def _turn(rng: np.random.Generator) -> float:
    """How wide a cycle looks that rides more or less along the road, to either side."""
    return (0.35 + 0.5 * rng.random()) * (1 if rng.random() < 0.5 else -1)


def _motorcyclist(rng: np.random.Generator) -> Draw:
    return _cycle("motorcycle", rng.random() < 0.8, _turn(rng))


def _parked_cars(street: Street, side: int, rng: np.random.Generator) -> Iterator[Item]:
    depth = 6 + 7 * rng.random()
    while depth < 60:
        if rng.random() < 0.6:
            is_oncoming = (side < 0) == (rng.random() < 0.85)
            yield Item(depth, side * (street.half - 0.7), _vehicle(_car(rng), is_oncoming))
        depth += 5.4 + 3 * rng.random()


def _crossing(street: Street, rng: np.random.Generator) -> Item:
    """Somebody on the way across the road, seen from the side."""
    depth = 11 + 18 * rng.random()
    across = 1 if rng.random() < 0.5 else -1
    lateral = 1.6 * street.half * (2 * rng.random() - 1)
    bodies = (*CARS, BUS, LORRY, TRAM)
    pick = int(rng.random() * (len(bodies) + 3))
    if pick < len(bodies):
        return Item(depth, lateral, partial(draw_vehicle, body=bodies[pick], across=across))
    name = "motorcycle" if pick == len(bodies) else "bicycle"
    return Item(depth * 0.7, lateral * 0.6, _cycle(name, True, float(across)))
