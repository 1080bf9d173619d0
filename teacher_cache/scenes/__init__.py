"""Seeds in; moving 3-D scenes with exact 4D ground truth out: frames, depth, flow, motion, rays, questions, mp4 files."""

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
