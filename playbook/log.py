"""stub"""
def configure(path, *, verbose):
    class L:
        def info(self, *a, **k): pass
    return L()
