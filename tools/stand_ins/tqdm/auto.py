"A progress bar that shows nothing."

class tqdm:
    def __init__(self, iterable=None, **kwargs): self.iterable = iterable
    def __iter__(self): return iter(self.iterable)
    def __getattr__(self, name): return lambda *args, **kwargs: None
