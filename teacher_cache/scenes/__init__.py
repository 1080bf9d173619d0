"""Moving 3-D scenes whose 4D truth is known exactly: from a seed to frames, depth, flow, motion, rays and an mp4."""

from teacher_cache.scenes.encode import encode_video
from teacher_cache.scenes.geometry import Box, Pose, Sphere, plucker_rays
from teacher_cache.scenes.render import SceneTruth, frame_times, render_scene
from teacher_cache.scenes.scene import Scene, SceneObject, random_scene

__all__ = [
    "Box",
    "Pose",
    "Scene",
    "SceneObject",
    "SceneTruth",
    "Sphere",
    "encode_video",
    "frame_times",
    "plucker_rays",
    "random_scene",
    "render_scene",
]
