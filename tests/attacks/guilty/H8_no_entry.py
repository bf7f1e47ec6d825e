"""Has no function of the entry's name."""


def another(a, scale, b, out):
    pass
