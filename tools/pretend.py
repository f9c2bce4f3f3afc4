"""A CUDA device that is not there, so that a machine without one finds what would go wrong on it.

    import pretend
    with pretend.cuda() as log: ...   # tensors sent to 'cuda' say that they are there; their numbers are not

An operation that mixes devices is refused, as by CUDA. `log.launches` counts what would be a kernel,
`log.waits` what would make Python wait for the device (reading a number, copying to or from it without
`non_blocking`), both by the line of the package that is behind it. It tells nothing about time."""
import collections, sys
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

device = torch.device('cuda', 0)
package = str(Path(__file__).resolve().parent.parent/'imagenette_train')

# --- what is counted

def line():
    "The innermost line of the package that we are in"
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(package): return f'{Path(file).name}:{frame.f_lineno}'
        frame = frame.f_back
    return 'backward' if _state.in_backward else 'elsewhere'

class Log:
    "Counts by line: launches of kernels, waits, and copies that need no wait"
    def __init__(self): self.reset()
    def reset(self): self.launches, self.waits, self.copies = (collections.Counter() for _ in range(3))
    def __repr__(self):
        said = [f'{name}: ' + ', '.join(f'{k} {v}' for k,v in c.most_common())
                for name,c in vars(self).items() if c]
        return '\n'.join(said)

class _State:
    log, in_backward, one_kernel = Log(), False, False
_state = _State()

def launched(n=1):
    if not _state.one_kernel: _state.log.launches[line()] += n
def waited(): _state.log.waits[line()] += 1

@contextmanager
def one_kernel():
    "All that is done within counts as one launch, as if it had been compiled"
    launched()
    was, _state.one_kernel = _state.one_kernel, True
    try: yield
    finally: _state.one_kernel = was

# --- the tensor

def _refuse(self, *args, **kwargs):
    raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

class Pretend(torch.Tensor):
    "A tensor that says it lies on cuda:0; its numbers are in `inner`, on the CPU"
    @staticmethod
    def __new__(cls, inner):
        inner = inner.detach()
        like = dict(strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype)
        # autograd's engine, which is C++, is told the truth: else it would look for a GPU's streams
        self = torch.Tensor._make_wrapper_subclass(cls, inner.size(), device='cpu', **like)
        self.inner = inner
        return self

    device = property(lambda self: device)
    is_cuda, is_cpu = property(lambda self: True), property(lambda self: False)
    numpy = __array__ = _refuse
    def get_device(self): return 0
    def cuda(self, *args, **kwargs): return self
    def cpu(self): return self.to('cpu')
    def data_ptr(self): return self.inner.data_ptr()
    def untyped_storage(self): return self.inner.untyped_storage()
    def __repr__(self, **kwargs): return f'Pretend({self.inner!r})'
    def backward(self, *args, **kwargs): return _backward(self, *args, **kwargs)

    def to(self, *args, **kwargs):
        to = _destination(args, kwargs)
        if to.device is not None and to.device.type == 'cpu':
            if to.non_blocking: raise RuntimeError("a copy to the CPU would be read too early")
            waited()
            return _ToCpu.apply(self).to(to.dtype or self.dtype)
        kwargs = {k: v for k,v in kwargs.items() if k in ('copy', 'memory_format')}
        if to.dtype is None and not any(kwargs.values()): return self
        return super().to(dtype=to.dtype or self.dtype, **kwargs)

    def __reduce_ex__(self, protocol): # as `torch.save` calls it
        waited()
        return self.inner.clone().requires_grad_(self.requires_grad).__reduce_ex__(protocol)
    def __deepcopy__(self, memo):
        if not self.is_leaf: raise RuntimeError("only leaves can be copied deeply")
        with torch.no_grad(): copied = self.clone().requires_grad_(self.requires_grad)
        memo[id(self)] = copied
        return copied

    __torch_function__ = torch._C._disabled_torch_function_impl
    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None): return _run(func, args, kwargs or {})

_Destination = collections.namedtuple('_Destination', 'device dtype non_blocking')

def _destination(args, kwargs):
    "What the arguments of `Tensor.to` ask for"
    args = list(args)
    if args and isinstance(args[0], torch.Tensor): args[:1] = [args[0].device, args[0].dtype]
    where = kwargs.get('device', next((a for a in args if isinstance(a, (str, torch.device, int))
                                       and not isinstance(a, bool)), None))
    dtype = kwargs.get('dtype') or next((a for a in args if isinstance(a, torch.dtype)), None)
    non_blocking = kwargs.get('non_blocking', any(a is True for a in args[:3]))
    return _Destination(None if where is None else torch.device(where), dtype, non_blocking)

class _ToCpu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x): return x.inner.clone()
    @staticmethod
    def backward(ctx, grad): return Pretend(grad)

_plain_backward = torch.Tensor.backward
def _backward(self, *args, **kwargs):
    was, _state.in_backward = _state.in_backward, _state.in_backward or isinstance(self, Pretend)
    try: return _plain_backward(self, *args, **kwargs)
    finally: _state.in_backward = was

# --- one operation

views = set('''view _unsafe_view as_strided detach alias slice select unsqueeze squeeze expand permute
    transpose t unbind split split_with_sizes _reshape_alias diagonal lift_fresh unfold view_as_real
    chunk'''.split())
made_empty = set('empty empty_like empty_strided new_empty new_empty_strided empty_permuted'.split())
read_numbers = set('_local_scalar_dense item equal is_nonzero nonzero masked_select unique_dim'.split())
may_mix = set('copy_ _to_copy index index_put_ _index_put_impl_ set_ _foreach_copy_'.split())

def is_pretend(o): return isinstance(o, Pretend)
def _on_cuda(where): return where is not None and torch.device(where).type == 'cuda'

def _run(func, args, kwargs):
    "Do operation `func` on the numbers, count it, and say that the result is where CUDA would have it"
    name = func.overloadpacket.__name__
    tensors = [o for o in tree_leaves((args, kwargs)) if isinstance(o, torch.Tensor)]
    ours, plain = [o for o in tensors if is_pretend(o)], [o for o in tensors if not is_pretend(o)]
    _check_same(name, ours, plain)
    kwargs, there = _place(name, kwargs, ours)
    _count(name, args, kwargs, ours, plain, there)
    there = there or name == 'copy_' and is_pretend(args[0])
    unwrapped = tree_map(lambda o: o.inner if is_pretend(o) else o, (args, kwargs))
    with torch._C._DisableTorchDispatch(), torch.no_grad(): out = func(*unwrapped[0], **unwrapped[1])
    known = {id(o.inner): o for o in ours}
    def wrapped(o):
        if not isinstance(o, torch.Tensor) or is_pretend(o): return o
        if id(o) in known: return known[id(o)]
        return Pretend(o) if there else o
    return out if name in ('_local_scalar_dense', 'equal', 'is_nonzero') else tree_map(wrapped, out)

def _check_same(name, ours, plain):
    "An error if operation `name` mixes devices; numbers without dimensions may come from anywhere"
    if not ours or name in may_mix: return
    if foreign := [o for o in plain if o.dim()]:
        raise RuntimeError(f"Expected all tensors to be on the same device, but found at least two devices, "
                           f"cuda:0 and cpu! ({name}: a cpu tensor of shape {tuple(foreign[0].shape)})")

def _place(name, kwargs, ours):
    "The arguments with the CPU as device, and whether the result is to be on CUDA"
    asked, kwargs = kwargs.get('device'), dict(kwargs)
    if asked is None: return kwargs, bool(ours) or _state.in_backward
    # C++ believes that our tensors lie on the CPU; the way there leads through `Pretend.to`
    there = _on_cuda(asked) or bool(ours) or _state.in_backward
    kwargs.update(device=torch.device('cpu'))
    if 'pin_memory' in kwargs: kwargs['pin_memory'] = None
    return kwargs, there

def _count(name, args, kwargs, ours, plain, there):
    "Count what operation `name` costs"
    if name in ('_to_copy', 'copy_'): return _count_copy(name, args, kwargs, there)
    if not (ours or there): return
    if name in read_numbers or name == 'index' and plain: waited()
    if name.rstrip('_') not in views | made_empty and name not in read_numbers:
        launched(_foreach_launches(name, args))

def _count_copy(name, args, kwargs, there):
    "Count a copy, by where it comes from and where it goes"
    if name == '_to_copy': from_cuda, to_cuda = is_pretend(args[0]), there
    else: to_cuda, from_cuda = map(is_pretend, args[:2])
    non_blocking = kwargs.get('non_blocking', any(a is True for a in args[2:]))
    if from_cuda and to_cuda: launched()
    elif non_blocking and from_cuda: raise RuntimeError("a copy to the CPU would be read too early")
    elif non_blocking and to_cuda: _state.log.copies[line()] += 1
    elif from_cuda or to_cuda: waited()

def _foreach_launches(name, args):
    "One launch for a list of tensors, if memory layouts are the same; else one for each"
    lists = [a for a in args if isinstance(a, (list, tuple)) and a and isinstance(a[0], torch.Tensor)]
    if not name.startswith('_foreach') or not lists: return 1
    same = all(o.stride() == lists[0][i].stride() for os in lists[1:] for i,o in enumerate(os))
    return 1 if same else len(lists[0])

class _Mode(TorchDispatchMode):
    "Also what makes a tensor on 'cuda' out of nothing"
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        concerned = _state.in_backward or _on_cuda(kwargs.get('device'))
        if concerned or any(map(is_pretend, tree_leaves((args, kwargs)))): return _run(func, args, kwargs)
        return func(*args, **kwargs)

# --- the functions of PyTorch that ask for a GPU

class _Autocast(torch.autocast):
    def __init__(self, device_type, *args, **kwargs): super().__init__(_cpu(device_type), *args, **kwargs)

def _cpu(kind): return 'cpu' if kind == 'cuda' else kind

def _made(plain):
    "`torch.tensor` or `torch.as_tensor`, for data that goes to CUDA as well"
    def f(data, *args, device=None, **kwargs):
        if is_pretend(data) and device is None: return data
        if not _on_cuda(device): return plain(data, *args, device=device, **kwargs)
        return plain(data, *args, **kwargs).to('cuda')
    return f

def _set_states(states):
    if any(map(is_pretend, states)): raise TypeError("RNG state must be a torch.ByteTensor on the CPU")

def _load(plain):
    "`torch.load`, which moves everything to where it is told"
    def f(file, map_location=None, **kwargs):
        if not _on_cuda(map_location): return plain(file, map_location=map_location, **kwargs)
        loaded = plain(file, map_location='cpu', **kwargs)
        return tree_map(lambda o: Pretend(o) if isinstance(o, torch.Tensor) else o, loaded)
    return f

def _one_hot(plain):
    return lambda label, num_classes=-1: Pretend(plain(label.inner, num_classes)) if is_pretend(label) \
        else plain(label, num_classes)

def _patches():
    enabled, dtype = torch.is_autocast_enabled, torch.get_autocast_dtype
    nothing = lambda *args, **kwargs: None
    of_cuda = dict(is_available=lambda: True, is_initialized=lambda: True, device_count=lambda: 1,
                   current_device=lambda: 0, _lazy_init=nothing, get_device_name=lambda *a: 'a pretended GPU',
                   get_device_capability=lambda *a: (9, 0),
                   synchronize=lambda *a: waited(), manual_seed=nothing, manual_seed_all=nothing,
                   get_rng_state_all=lambda: [torch.get_rng_state()], set_rng_state_all=_set_states)
    of_torch = dict(autocast=_Autocast, tensor=_made(torch.tensor), as_tensor=_made(torch.as_tensor),
                    load=_load(torch.load), is_autocast_enabled=lambda kind='cpu': enabled(_cpu(kind)),
                    get_autocast_dtype=lambda kind: dtype(_cpu(kind)))
    from torchvision.transforms.v2 import _augment
    yield patch.multiple(torch.cuda, **of_cuda)
    yield patch.multiple(torch, **of_torch)
    yield patch.object(torch.amp, 'autocast', _Autocast)
    # `Module.to` makes new parameters: C++ cannot turn one of the CPU into one of ours
    yield patch.object(torch.__future__, 'get_overwrite_module_params_on_conversion', lambda: True)
    yield patch.object(torch.Tensor, 'backward', _backward)
    yield torch.backends.cudnn.flags(enabled=False)
    yield patch.object(_augment, 'one_hot', _one_hot(_augment.one_hot))

@contextmanager
def cuda():
    "Within it there is a GPU; gives the log of what would be launched and waited for"
    from contextlib import ExitStack
    torch._C._ensureCUDADeviceGuardSet()
    with ExitStack() as stack:
        for p in _patches(): stack.enter_context(p)
        stack.enter_context(_Mode())
        _state.log.reset()
        yield _state.log
