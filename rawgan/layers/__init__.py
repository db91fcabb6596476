"""Layers: state plus forward, backward and double_backward, a page each."""

from rawgan.layers.act import LeakyReLU, ReLU, Sigmoid, Softplus, Tanh
from rawgan.layers.augment import Augment
from rawgan.layers.base import Layer, leaves, parameter_count, state
from rawgan.layers.blocks import Heads, Lerp, Residual, Skip
from rawgan.layers.conditional import ConditionalBatchNorm, ConditionalSequential, Projection
from rawgan.layers.conv import Conv2d, ConvTranspose2d
from rawgan.layers.dropout import Dropout, GaussianNoise
from rawgan.layers.embed import Condition, Embedding, OneHot
from rawgan.layers.linear import Linear
from rawgan.layers.minibatch_std import MinibatchStd
from rawgan.layers.norm import BatchNorm, InstanceNorm, LayerNorm
from rawgan.layers.parameters import Parameters
from rawgan.layers.pixel_norm import PixelNorm
from rawgan.layers.pool import (
    AvgPool2d,
    GlobalMeanPool,
    GlobalSumPool,
    MaxPool2d,
    Upsample2d,
)
from rawgan.layers.reparameterize import EqualizedLR, WeightNorm
from rawgan.layers.sequential import Sequential
from rawgan.layers.shape import Crop, Flatten, Planes, Reshape
from rawgan.layers.spectral import SpectralNorm

__all__ = [
    "Augment", "AvgPool2d", "BatchNorm", "Condition", "ConditionalBatchNorm",
    "ConditionalSequential", "Conv2d", "ConvTranspose2d", "Crop", "Dropout", "Embedding",
    "EqualizedLR", "Flatten", "GaussianNoise", "GlobalMeanPool", "GlobalSumPool", "Heads",
    "InstanceNorm", "Layer", "LayerNorm", "LeakyReLU", "Lerp", "Linear", "MaxPool2d",
    "MinibatchStd", "OneHot", "Parameters", "PixelNorm", "Planes", "Projection", "ReLU",
    "Reshape", "Residual", "Sequential", "Sigmoid", "Skip", "Softplus", "SpectralNorm", "Tanh",
    "Upsample2d", "WeightNorm", "leaves", "parameter_count", "state",
]  # fmt: skip
