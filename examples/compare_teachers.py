"""Compare the optical flow of two teachers over the same clips: the end-point error between them, as a table.

    python examples/precompute_folder.py VIDEOS l4p-store
    python examples/precompute_folder.py VIDEOS classical-store --family classical --preset px112 --signals flow motion
    python examples/compare_teachers.py l4p-store classical-store

The stores are joined by clip id: clips that one of them lacks are left out, and stores of different frames are refused. Neither
teacher is the truth: the error says how far apart they are, not which one is right. It only reads: no GPU, no teacher.
"""

from __future__ import annotations

import argparse

import numpy as np

from teacher_cache import join_caches, open_cache


def end_point_error(flow: np.ndarray, other: np.ndarray) -> float:
    """Mean length of the difference, in pixels. Both (frame, y, x, uv), backward flow; frame 0 has none and is left out."""
    return float(np.linalg.norm(flow[1:] - other[1:], axis=-1).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the optical flow of two teachers' stores.")
    parser.add_argument("stores", nargs=2, metavar="STORE", help="a local path or a URL")
    options = parser.parse_args()

    joined = join_caches({"first": open_cache(options.stores[0]), "second": open_cache(options.stores[1])})
    for name, cache in joined.caches.items():
        teacher = cache.recipe.teacher
        print(f"{name:<7} {teacher.family:<10} {cache.url} with {', '.join(cache.signals)}")

    print(f"\n{'clip':<24} {'first, px':>10} {'second, px':>11} {'apart, px':>10} {'of first':>9}")
    errors, lengths = [], []
    for clip_id in joined.committed_ids():
        # Both stores have flow, so it goes by its store's name.
        read = joined.read(["first:flow", "second:flow"], [clip_id])
        first, second = read["first:flow"][0], read["second:flow"][0]
        error, length = end_point_error(first, second), end_point_error(first, np.zeros_like(first))
        other = end_point_error(second, np.zeros_like(second))
        print(f"{clip_id:<24} {length:>10.3f} {other:>11.3f} {error:>10.3f} {error / length:>9.0%}")
        errors.append(error)
        lengths.append(length)
    print(f"{'mean':<24} {np.mean(lengths):>10.3f} {'':>11} {np.mean(errors):>10.3f} {np.sum(errors) / np.sum(lengths):>9.0%}")


if __name__ == "__main__":
    main()
