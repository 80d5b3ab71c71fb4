"""What goes wrong with gradients."""


class GradientRuleError(ValueError):
    """A gradient rule that does not apply, with the reason."""


class GradientPathError(RuntimeError):
    """No gradient reaches the layer, with the module at which the path breaks."""
