"""Layers: state plus forward, backward and double_backward, a page each."""

from rawgan.layers.act import LeakyReLU, ReLU, Sigmoid, Softplus, Tanh
from rawgan.layers.base import Layer, leaves, parameter_count, state
from rawgan.layers.conv import Conv2d, ConvTranspose2d
from rawgan.layers.dropout import Dropout
from rawgan.layers.embed import Condition, Embedding, OneHot
from rawgan.layers.linear import Linear
from rawgan.layers.norm import BatchNorm, InstanceNorm, LayerNorm
from rawgan.layers.parameters import Parameters
from rawgan.layers.pool import MaxPool2d
from rawgan.layers.sequential import Sequential
from rawgan.layers.shape import Crop, Flatten, Planes, Reshape
from rawgan.layers.spectral import SpectralNorm

__all__ = [
    "BatchNorm", "Condition", "Conv2d", "ConvTranspose2d", "Crop", "Dropout", "Embedding", "Flatten", "InstanceNorm", "Layer",
    "LayerNorm", "LeakyReLU", "Linear", "MaxPool2d", "OneHot", "Parameters", "Planes", "ReLU", "Reshape", "Sequential", "Sigmoid",
    "Softplus", "SpectralNorm", "Tanh", "leaves", "parameter_count", "state",
]  # fmt: skip
