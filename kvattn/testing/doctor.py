"""What one needs to know about a machine before talking about a last-bit difference.

Versions, the BLAS that NumPy was built with, the CPU features that NumPy found, threads, the
environment variables that change any of it, and what the probe of `kvattn.blas` says.
"""

from importlib.metadata import PackageNotFoundError, version
import os
import platform
from typing import Any

import numpy as np

from kvattn.blas import probe_report

OPTIONAL = ("hypothesis", "pytest", "torch", "jax", "onnx", "ml_dtypes", "mpmath")
"""Packages of the extras."""

VARIABLES = (
    "OPENBLAS_CORETYPE",
    "OPENBLAS_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NPY_DISABLE_CPU_FEATURES",
    "NPY_ENABLE_CPU_FEATURES",
)
"""Environment variables that change the arithmetic."""


def examine() -> dict[str, dict[str, Any]]:
    """Return what ``kvattn doctor`` prints.

    Examples
    --------
    >>> list(examine())
    ['versions', 'blas', 'cpu', 'threads', 'environment', 'probe']
    """
    build: dict[str, Any] = {**np.show_config(mode="dicts")}
    blas = build.get("Build Dependencies", {}).get("blas", {})
    simd = build.get("SIMD Extensions", {})
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "versions": {
            "kvattn": _version("kvattn"),
            "python": platform.python_version(),
            "numpy": np.__version__,
            "platform": platform.platform(),
            **{name: _version(name) for name in OPTIONAL},
        },
        "blas": {
            "name": blas.get("name", "unknown"),
            "version": blas.get("version", "unknown"),
            "configuration": blas.get("openblas configuration", "unknown"),
        },
        "cpu": {
            "machine": platform.machine(),
            "baseline": list(simd.get("baseline", [])),
            "found": list(simd.get("found", [])),
        },
        "threads": {"processors": os.cpu_count(), "usable": usable},
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "probe": dict(probe_report()),
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
