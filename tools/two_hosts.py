"""Train on two hosts at once, tried on one machine: two network namespaces that see each other by one cable.

    python tools/two_hosts.py      # needs root and `ip` (iproute2); a minute

Each namespace has a network of its own, as another machine would. `torchrun` starts two processes on each; they
find each other by its c10d rendezvous on the first host. The training is stopped in its second epoch and goes on
with two hosts, with one, and in a single process; all of them must end with the losses of one that nobody
stopped."""
import json, os, shutil, subprocess, sys, tempfile
from pathlib import Path

root = Path(__file__).resolve().parent.parent
hosts = {'it-host0': '10.77.0.1', 'it-host1': '10.77.0.2'}

script = '''
import json, sys
from imagenette_train.all import *
from imagenette_train.course.toy_problems import *
from torch.utils.data import DataLoader, TensorDataset
set_seed(0)
x, y = tiny_images(64, noise=0.5)
train, valid = TensorDataset(x[:50], y[:50]), TensorDataset(x[50:], y[50:])
model = nn.Sequential(nn.Flatten(), nn.Linear(144, 32), nn.LayerNorm(32), nn.ReLU(), nn.Linear(32, 4))
dls = DataLoaders(DataLoader(train, 7, shuffle=True), DataLoader(valid, 5))
learn = Learner(dls, model, metrics=accuracy)
learn.distributed()
set_seed(1)
class StopAt(Callback):
    def after_pred(self):
        if sys.argv[2] == 'stop' and self.training and self.train_iter == 13:
            raise RuntimeError('power failure')
learn.fit_one_cycle(3, 0.01, cbs=[StopAt, Checkpoint(sys.argv[1] + '.ckpt', every=3)], resume=True)
if is_main_process(): json.dump(learn.recorder.raw_losses, open(sys.argv[1], 'w'))
'''

def ip(*args): return subprocess.run(['ip', *args], check=True, capture_output=True, text=True)

def cable():
    "Two namespaces, and a pair of connected network devices"
    a, b = hosts
    for h in hosts: ip('netns', 'add', h)
    ip('link', 'add', 'it-veth0', 'netns', a, 'type', 'veth', 'peer', 'name', 'it-veth1', 'netns', b)
    for i,(h,address) in enumerate(hosts.items()):
        ip('-n', h, 'addr', 'add', f'{address}/24', 'dev', f'it-veth{i}')
        for dev in ('lo', f'it-veth{i}'): ip('-n', h, 'link', 'set', dev, 'up')

def no_cable():
    for h in hosts: subprocess.run(['ip', 'netns', 'delete', h], capture_output=True)

def start(n_hosts, i, tmp, name, how):
    "The command of host number `i` of `n_hosts`: two processes"
    host, first = list(hosts)[i], hosts['it-host0']
    env = {**os.environ, 'GLOO_SOCKET_IFNAME': f'it-veth{i}', 'OMP_NUM_THREADS': '1',
           'PYTHONPATH': os.pathsep.join([str(root), os.environ.get('PYTHONPATH', '')])}
    torchrun = [sys.executable, '-m', 'torch.distributed.run', '--nnodes', n_hosts, '--nproc-per-node', 2,
                '--rdzv-backend', 'c10d', '--rdzv-endpoint', f'{first}:29511', '--rdzv-id', name,
                '--rdzv-conf', f'is_host={int(i == 0)}', '--local-addr', hosts[host]]
    cmd = ['ip', 'netns', 'exec', host, *torchrun, tmp/'train.py', tmp/name, how]
    return subprocess.Popen(list(map(str, cmd)), env=env, cwd=tmp, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT)

def losses(n_hosts, tmp, name, how='no'):
    "Train on so many hosts; the training losses, or None if it was stopped"
    if n_hosts: jobs = [start(n_hosts, i, tmp, name, how) for i in range(n_hosts)]
    else: jobs = [subprocess.Popen([sys.executable, tmp/'train.py', tmp/name, how], cwd=tmp, text=True,
                                   env={**os.environ, 'PYTHONPATH': str(root)}, stdout=subprocess.PIPE)]
    said = [p.communicate(timeout=300)[0] for p in jobs]
    if how == 'stop': return None
    assert all(p.returncode == 0 for p in jobs), '\n'.join(map(str, said))[-4000:]
    return json.loads((tmp/name).read_text())

def apart(a, b): return max(abs(x-y) for x,y in zip(a, b, strict=True))

def main():
    tmp = Path(tempfile.mkdtemp())
    (tmp/'train.py').write_text(script)
    no_cable()
    try:
        cable()
        alone = losses(0, tmp, 'alone')
        difference = apart(alone, losses(2, tmp, 'two'))
        print(f'two hosts, two processes each: largest difference of a loss {difference:.0e}')
        for n in (2, 1, 0):
            name = f'resumed{n}'
            losses(2, tmp, name, 'stop')
            what = {2: 'two hosts', 1: 'one host', 0: 'a single process'}[n]
            difference = apart(alone, losses(n, tmp, name))
            print(f'stopped in the second epoch, resumed by {what}: {difference:.0e}')
            assert difference < 1e-5
    finally:
        no_cable()
        shutil.rmtree(tmp)

if __name__ == '__main__': main()
