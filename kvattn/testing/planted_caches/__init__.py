"""Caches with one planted fault each, on arrays: what a check of caches must detect and name.

`PlantedCache` grows its arrays, `PlantedLayers` is several of it, `PlantedPages` writes into pages of a pool through
tables, `PlantedRing` keeps the last W rows, `PlantedCodes` reads through int8 codes with a scale for each row,
`PlantedScales` keeps codes and scales, `PlantedFormats` rounds.  Each is right unless told otherwise, and none shares
code with the models of `kvattn.testing.cache_diagnosis`.  `PLANTED_CACHES` lists one of each fault, with the class and
the parameters that it must be named by; those without a class are outside every catalogue: to be detected, not named.
"""

from kvattn.testing.planted_caches.codes import PlantedCodes
from kvattn.testing.planted_caches.formats import PlantedFormats
from kvattn.testing.planted_caches.grown import Grown, PlantedCache
from kvattn.testing.planted_caches.layers import PlantedLayers
from kvattn.testing.planted_caches.listed import PLANTED_CACHES, Planted
from kvattn.testing.planted_caches.pages import PlantedPages
from kvattn.testing.planted_caches.ring import PlantedRing
from kvattn.testing.planted_caches.scales import PlantedScales

__all__ = [
    "PLANTED_CACHES",
    "Grown",
    "Planted",
    "PlantedCache",
    "PlantedCodes",
    "PlantedFormats",
    "PlantedLayers",
    "PlantedPages",
    "PlantedRing",
    "PlantedScales",
]
