"""Modules of a user's own, for tests."""

import torchquantum as tq


class Ansatz(tq.QuantumModule):
    """A user's ansatz: a function of module and device; keywords become attributes."""

    def __init__(self, body=lambda self, qdev: None, **attributes):
        super().__init__()
        self.body = body
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, qdev):
        self.body(self, qdev)


class Encoder(tq.Encoder):
    """A user's encoder, likewise."""

    def __init__(self, body, **attributes):
        super().__init__()
        self.body = body
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, qdev, x):
        self.body(self, qdev, x)
